//! A radix tree over bytes that is built once and then only walked.

use std::fmt;

/// What a path must be to meet an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Meets {
    /// Begin with the key.
    Prefix,
    /// Be the key.
    Whole,
}

/// A value and where it hangs.
#[derive(Clone, Debug)]
pub(crate) struct Entry<V> {
    pub(crate) key: Box<[u8]>,
    pub(crate) meets: Meets,
    pub(crate) value: V,
}

/// Values under byte strings. A walk along a text meets the values of every key that the text begins with, and of the
/// key that the text is.
///
/// Nodes lie in one array, siblings side by side, with the first bytes of their labels in an array beside it: choosing
/// a child scans a few adjacent bytes. What the labels have beyond that follows in the same array, so that a small tree
/// is few cache lines and a step of one byte looks at nothing else.
#[derive(Clone)]
pub(crate) struct RadixTree<V> {
    nodes: Box<[Node]>,
    /// The first byte of each node's label, then the rest of the labels.
    bytes: Box<[u8]>,
    values: Box<[V]>,
}

#[derive(Clone, Copy, Default)]
struct Node {
    /// The label without its first byte.
    label: Span,
    children: Span,
    /// Of values: those that a prefix meets, then those that only the whole text meets.
    prefix: Span,
    whole: Span,
}

#[derive(Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
}

impl Span {
    fn of<T>(self, list: &[T]) -> &[T] {
        &list[self.start as usize..(self.start + self.len) as usize]
    }

    /// The end of a list that was `start` long.
    fn tail<T>(list: &[T], start: usize) -> Self {
        Self { start: start as u32, len: (list.len() - start) as u32 }
    }
}

impl<V: Copy> RadixTree<V> {
    /// Values that hang at one place are put in the order of `rank`.
    pub(crate) fn new<R: Ord>(mut entries: Vec<Entry<V>>, rank: impl Fn(&V) -> R) -> Self {
        entries.sort_unstable_by(|a, b| {
            (&a.key, a.meets).cmp(&(&b.key, b.meets)).then_with(|| rank(&a.value).cmp(&rank(&b.value)))
        });
        let mut tree = Builder {
            entries: &entries,
            nodes: vec![Node::default()],
            first_bytes: vec![0],
            labels: Vec::new(),
            values: Vec::new(),
        };
        // Breadth first, so that siblings are neighbours. The root's label is empty.
        let mut open = std::collections::VecDeque::from([(0, 0..entries.len(), 0)]);
        while let Some((node, range, depth)) = open.pop_front() {
            for child in tree.fill(node, range, depth) {
                open.push_back(child);
            }
        }
        let first_bytes = tree.first_bytes.len() as u32;
        for node in &mut tree.nodes {
            node.label.start += first_bytes;
        }
        tree.first_bytes.append(&mut tree.labels);
        Self { nodes: tree.nodes.into(), bytes: tree.first_bytes.into(), values: tree.values.into() }
    }

    /// Shows the values that a text meets, list by list, shortest key first.
    pub(crate) fn walk(&self, text: &[u8], visit: impl FnMut(&[V])) {
        self.descend(text, visit, |byte| byte, |text, label| text == label);
    }

    /// The same for a tree whose keys are in lower case.
    pub(crate) fn walk_ignoring_case(&self, text: &[u8], visit: impl FnMut(&[V])) {
        self.descend(text, visit, |byte| byte.to_ascii_lowercase(), <[u8]>::eq_ignore_ascii_case);
    }

    #[inline]
    fn descend(
        &self,
        mut text: &[u8],
        mut visit: impl FnMut(&[V]),
        fold: impl Fn(u8) -> u8,
        equal: impl Fn(&[u8], &[u8]) -> bool,
    ) {
        if self.values.is_empty() {
            return;
        }
        let mut node = &self.nodes[0];
        loop {
            if node.prefix.len > 0 {
                visit(node.prefix.of(&self.values));
            }
            let Some(&next) = text.first() else {
                if node.whole.len > 0 {
                    visit(node.whole.of(&self.values));
                }
                return;
            };
            let Some(child) = memchr::memchr(fold(next), node.children.of(&self.bytes)) else { return };
            node = &self.nodes[node.children.start as usize + child];
            text = &text[1..];
            if node.label.len > 0 {
                let label = node.label.of(&self.bytes);
                match text.split_at_checked(label.len()) {
                    Some((start, rest)) if equal(start, label) => text = rest,
                    _ => return,
                }
            }
        }
    }
}

impl<V> Default for RadixTree<V> {
    fn default() -> Self {
        Self { nodes: Box::new([Node::default()]), bytes: Box::new([0]), values: Box::default() }
    }
}

impl<V> fmt::Debug for RadixTree<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RadixTree")
            .field("nodes", &self.nodes.len())
            .field("values", &self.values.len())
            .finish_non_exhaustive()
    }
}

struct Builder<'e, V> {
    entries: &'e [Entry<V>],
    nodes: Vec<Node>,
    first_bytes: Vec<u8>,
    labels: Vec<u8>,
    values: Vec<V>,
}

/// A node that waits to be filled, the entries below it, and how much of their keys the nodes above it hold.
type Open = (usize, std::ops::Range<usize>, usize);

impl<V: Copy> Builder<'_, V> {
    fn fill(&mut self, node: usize, mut range: std::ops::Range<usize>, mut depth: usize) -> Vec<Open> {
        let entries = self.entries;
        let key = |i: usize| &*entries[i].key;
        if node > 0 {
            // The entries are sorted: what the first and the last have in common, all have.
            let (first, last) = (&key(range.start)[depth..], &key(range.end - 1)[depth..]);
            let common = first.iter().zip(last).take_while(|(a, b)| a == b).count();
            let start = self.labels.len();
            self.labels.extend_from_slice(&first[1..common]);
            self.nodes[node].label = Span::tail(&self.labels, start);
            depth += common;
        }
        for (meets, span) in [(Meets::Prefix, 0), (Meets::Whole, 1)] {
            let start = self.values.len();
            while range.start < range.end && key(range.start).len() == depth && entries[range.start].meets == meets {
                self.values.push(entries[range.start].value);
                range.start += 1;
            }
            let values = Span::tail(&self.values, start);
            if span == 0 {
                self.nodes[node].prefix = values;
            } else {
                self.nodes[node].whole = values;
            }
        }
        let mut open = Vec::new();
        let start = self.nodes.len();
        while range.start < range.end {
            let byte = key(range.start)[depth];
            let same = range.clone().take_while(|i| key(*i)[depth] == byte).count();
            open.push((self.nodes.len(), range.start..range.start + same, depth));
            self.nodes.push(Node::default());
            self.first_bytes.push(byte);
            range.start += same;
        }
        self.nodes[node].children = Span::tail(&self.nodes, start);
        open
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_meets_prefixes_and_the_whole() {
        let entries = [
            ("", Meets::Prefix),
            ("/", Meets::Prefix),
            ("/foo", Meets::Prefix),
            ("/foo", Meets::Whole),
            ("/foobar", Meets::Prefix),
            ("/fox", Meets::Whole),
            ("/foo", Meets::Prefix),
        ];
        let tree = RadixTree::new(
            entries
                .iter()
                .zip(0..)
                .map(|((key, meets), value)| Entry { key: key.as_bytes().into(), meets: *meets, value })
                .collect(),
            |value: &i32| *value,
        );
        for (text, want) in [
            ("", &[&[0][..]][..]),
            ("x", &[&[0]]),
            ("/", &[&[0], &[1]]),
            ("/fo", &[&[0], &[1]]),
            ("/foo", &[&[0], &[1], &[2, 6], &[3]]),
            ("/foobar/x", &[&[0], &[1], &[2, 6], &[4]]),
            ("/fox", &[&[0], &[1], &[5]]),
            ("/foxy", &[&[0], &[1]]),
        ] {
            let mut met = Vec::new();
            tree.walk(text.as_bytes(), |values| met.push(values.to_vec()));
            assert_eq!(met, want, "{text}");
            let mut met = Vec::new();
            tree.walk_ignoring_case(text.to_uppercase().as_bytes(), |values| met.push(values.to_vec()));
            assert_eq!(met, want, "{text} in upper case");
        }
    }

    #[test]
    fn an_empty_tree_meets_nothing() {
        RadixTree::<u32>::default().walk(b"/", |_| panic!("nothing to meet"));
        RadixTree::<u32>::new(Vec::new(), |v| *v).walk(b"", |_| panic!("nothing to meet"));
    }
}
