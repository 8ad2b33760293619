//! Names that are made from a `generateName`.

use route_model::kind::Kind;

/// Longest name of an object (RFC 1123 subdomain).
const MAX_NAME: usize = 253;
/// Longest name where it must be an RFC 1123 label.
const MAX_LABEL: usize = 63;
/// Random characters that are put after a `generateName`.
const SUFFIX: usize = 5;

/// A name from a `generateName`: the prefix, cut if it is too long, and random characters without vowels.
pub(crate) fn generate_name(kind: Kind, prefix: &str) -> String {
    const LETTERS: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
    let longest = if matches!(kind, Kind::Namespace | Kind::Gateway) { MAX_LABEL } else { MAX_NAME } - SUFFIX;
    let mut end = prefix.len().min(longest);
    while !prefix.is_char_boundary(end) {
        end -= 1;
    }
    let random = (0..SUFFIX).map(|_| char::from(LETTERS[fastrand::usize(..LETTERS.len())]));
    prefix[..end].chars().chain(random).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_are_short_enough_and_differ() {
        for prefix in ["a-", &"é".repeat(200), &"x".repeat(300)] {
            let name = generate_name(Kind::VirtualService, prefix);
            assert!(name.len() <= MAX_NAME && name.len() > SUFFIX);
        }
        assert_ne!(generate_name(Kind::Gateway, "a-"), generate_name(Kind::Gateway, "a-"));
    }
}
