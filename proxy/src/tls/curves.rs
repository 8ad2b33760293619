//! Key exchange groups by the names of Istio's `ecdhCurves`, which are BoringSSL's.

use rustls::NamedGroup;
use rustls::crypto::SupportedKxGroup;

const NAMES: [(NamedGroup, &str); 5] = [
    (NamedGroup::X25519, "X25519"),
    (NamedGroup::secp256r1, "P-256"),
    (NamedGroup::secp384r1, "P-384"),
    (NamedGroup::X25519MLKEM768, "X25519MLKEM768"),
    (NamedGroup::secp256r1MLKEM768, "P256MLKEM768"),
];

/// The groups that `names` list, in their order, and the names that none of `all` has. If none of the names is known,
/// `default` remains.
pub(super) fn select<'n>(
    names: &'n [String],
    all: &[&'static dyn SupportedKxGroup],
    default: Vec<&'static dyn SupportedKxGroup>,
) -> (Vec<&'static dyn SupportedKxGroup>, Vec<&'n str>) {
    let find = |wanted: &str| {
        let (group, _) = NAMES.iter().find(|(_, name)| *name == wanted)?;
        all.iter().copied().find(|known| known.name() == *group)
    };
    let (mut groups, mut unknown) = (Vec::new(), Vec::new());
    for name in names {
        match find(name) {
            Some(group) => groups.push(group),
            None => unknown.push(name.as_str()),
        }
    }
    (if groups.is_empty() { default } else { groups }, unknown)
}

#[cfg(test)]
mod tests {
    use rustls::crypto::aws_lc_rs::{ALL_KX_GROUPS, DEFAULT_KX_GROUPS};

    use super::*;

    #[test]
    fn every_name_is_a_group_of_the_library_and_unknown_ones_are_reported() {
        let all = NAMES.map(|(_, name)| name.to_owned());
        let (groups, unknown) = select(&all, ALL_KX_GROUPS, Vec::new());
        assert_eq!(groups.iter().map(|group| group.name()).collect::<Vec<_>>(), NAMES.map(|(group, _)| group));
        assert_eq!(unknown, [""; 0]);
        let strange = ["P-521".to_owned()];
        let (groups, unknown) = select(&strange, ALL_KX_GROUPS, DEFAULT_KX_GROUPS.to_vec());
        assert_eq!((groups.len(), unknown), (DEFAULT_KX_GROUPS.len(), vec!["P-521"]));
    }
}
