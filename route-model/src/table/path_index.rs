//! Finds, among the routes of a host, those whose path can fit.
//!
//! Istio's order is list order, so the index never decides: it narrows thousands of routes down to the few whose path
//! predicate can hold, each with its position in the list, and the smallest position whose other predicates hold wins.
//! Exact paths and prefixes are met on one walk down a [`RadixTree`] over raw bytes. A regex hangs in the same tree
//! under the literal texts it begins with; where too many share one, they are asked together as a [`RegexSet`].
//! A look-up allocates nothing (the automata of regexes grow their caches while they are young).

use std::collections::HashMap;
use std::sync::Arc;

use super::Route;
use super::radix::{Entry, Meets, RadixTree};
use crate::matching::regex::{RegexSet, Shape};
use crate::matching::{Regex, UriPattern};

/// So many regexes may hang under one literal text and be asked one by one.
const CROWD: usize = 8;
/// About so many regexes make a set, at most four times as many.
const SET_SIZE: usize = 32;

/// A route whose path can fit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Candidate(u32);

impl Candidate {
    /// The path predicate has yet to be asked; otherwise it holds.
    const ASK_URI: u32 = 1 << 31;
    /// There are other predicates to be asked.
    const CONDITIONAL: u32 = 1 << 30;
    const POSITION: u32 = Self::CONDITIONAL - 1;

    fn new(position: usize, route: &Route) -> Self {
        let position = u32::try_from(position).ok().filter(|p| *p <= Self::POSITION).unwrap_or(Self::POSITION);
        Self(if route.predicates.is_empty() { position } else { position | Self::CONDITIONAL })
    }

    fn asking(self) -> Self {
        Self(self.0 | Self::ASK_URI)
    }

    pub(super) fn position(self) -> usize {
        (self.0 & Self::POSITION) as usize
    }

    pub(super) fn must_ask_uri(self) -> bool {
        self.0 & Self::ASK_URI != 0
    }

    pub(super) fn is_conditional(self) -> bool {
        self.0 & Self::CONDITIONAL != 0
    }
}

/// The index over one list of routes.
#[derive(Clone, Debug, Default)]
pub(super) struct PathIndex {
    tree: RadixTree<Candidate>,
    /// Over lower-case paths, for `ignoreUriCase`.
    ignoring_case: RadixTree<Candidate>,
    sets: Vec<CrowdedRegexes>,
}

/// Regexes that are asked together.
#[derive(Clone, Debug)]
struct CrowdedRegexes {
    set: Arc<RegexSet>,
    patterns: Box<[Regex]>,
    /// One for each pattern, ascending.
    candidates: Box<[Candidate]>,
}

impl PathIndex {
    /// Indexes routes by their position. Regex sets that stand in `previous` are taken from there.
    pub(super) fn new(routes: &[Arc<Route>], previous: Option<&Self>) -> Self {
        let mut exact_case = Vec::with_capacity(routes.len());
        let mut ignoring_case = Vec::new();
        let mut by_literal: HashMap<&[u8], Vec<(usize, &Regex)>, foldhash::fast::RandomState> = HashMap::default();
        for (position, route) in routes.iter().enumerate() {
            let candidate = Candidate::new(position, route);
            let (meets, key) = match &route.uri.pattern {
                UriPattern::Exact(path) => (Meets::Whole, path.as_bytes()),
                UriPattern::Prefix(path) => (Meets::Prefix, path.as_bytes()),
                UriPattern::Regex(regex) => match regex.shape() {
                    Shape::Exact(path) => (Meets::Whole, path),
                    Shape::Prefix(path) => (Meets::Prefix, path),
                    Shape::Other(literals) => {
                        for literal in literals {
                            by_literal.entry(literal).or_default().push((position, regex));
                        }
                        continue;
                    }
                },
            };
            let is_regex = matches!(route.uri.pattern, UriPattern::Regex(_));
            if route.uri.ignore_case && !is_regex {
                ignoring_case.push(Entry { key: key.to_ascii_lowercase().into(), meets, value: candidate });
            } else {
                exact_case.push(Entry { key: key.into(), meets, value: candidate });
            }
        }

        let mut crowded = Vec::new();
        for (literal, regexes) in by_literal {
            if regexes.len() > CROWD {
                crowded.extend(regexes);
                continue;
            }
            exact_case.extend(regexes.iter().map(|(position, _)| Entry {
                key: literal.into(),
                meets: Meets::Prefix,
                value: Candidate::new(*position, &routes[*position]).asking(),
            }));
        }
        crowded.sort_unstable_by_key(|(position, _)| *position);
        crowded.dedup_by_key(|(position, _)| *position);
        let mut sets = Vec::new();
        for chunk in chunks(&crowded) {
            let candidate = |position: usize| Candidate::new(position, &routes[position]);
            match CrowdedRegexes::new(chunk, candidate, previous) {
                Some(set) => sets.push(set),
                // Too large for one automaton: one by one is slow, but right.
                None => exact_case.extend(chunk.iter().map(|(position, _)| Entry {
                    key: Box::default(),
                    meets: Meets::Prefix,
                    value: candidate(*position).asking(),
                })),
            }
        }
        let by_position = |candidate: &Candidate| candidate.position();
        Self {
            tree: RadixTree::new(exact_case, by_position),
            ignoring_case: RadixTree::new(ignoring_case, by_position),
            sets,
        }
    }

    /// The smallest position whose candidate is accepted.
    pub(super) fn find(&self, path: &str, mut accept: impl FnMut(Candidate) -> bool) -> Option<usize> {
        let mut best = usize::MAX;
        // Each list ascends, so a list is done when it passes the best position or gives one.
        let mut look_at = |candidates: &[Candidate], best: &mut usize| {
            for &candidate in candidates {
                if candidate.position() >= *best {
                    break;
                }
                if accept(candidate) {
                    *best = candidate.position();
                    break;
                }
            }
        };
        self.tree.walk(path.as_bytes(), |candidates| look_at(candidates, &mut best));
        self.ignoring_case.walk_ignoring_case(path.as_bytes(), |candidates| look_at(candidates, &mut best));
        for regexes in &self.sets {
            if regexes.candidates.first().is_some_and(|first| first.position() < best) {
                regexes.set.find(path.as_bytes(), |i| {
                    let candidate = regexes.candidates[i];
                    look_at(&[candidate], &mut best);
                    candidate.position() >= best
                });
            }
        }
        (best != usize::MAX).then_some(best)
    }

    /// Shows the candidates for a path list by list, each list ascending; `visit` ends a list by answering false.
    pub(super) fn scan(&self, path: &str, mut visit: impl FnMut(Candidate) -> bool) {
        let mut show = |candidates: &[Candidate]| {
            candidates.iter().all(|candidate| visit(*candidate));
        };
        self.tree.walk(path.as_bytes(), &mut show);
        self.ignoring_case.walk_ignoring_case(path.as_bytes(), &mut show);
        for regexes in &self.sets {
            regexes.set.find(path.as_bytes(), |i| !visit(regexes.candidates[i]));
        }
    }

    /// All candidates for a path by position, those included whose path predicate has yet to be asked.
    pub(super) fn candidates(&self, path: &str) -> Vec<usize> {
        let mut positions = Vec::new();
        self.scan(path, |candidate| {
            positions.push(candidate.position());
            true
        });
        positions.sort_unstable();
        positions.dedup();
        positions
    }
}

impl CrowdedRegexes {
    fn new(
        regexes: &[(usize, &Regex)],
        candidate: impl Fn(usize) -> Candidate,
        previous: Option<&PathIndex>,
    ) -> Option<Self> {
        let patterns: Box<[Regex]> = regexes.iter().map(|(_, regex)| (*regex).clone()).collect();
        let known = previous.and_then(|index| index.sets.iter().find(|known| known.patterns == patterns));
        let set = match known {
            Some(known) => known.set.clone(),
            None => Arc::new(RegexSet::new(&patterns).ok()?),
        };
        let candidates = regexes.iter().map(|(position, _)| candidate(*position)).collect();
        Some(Self { set, patterns, candidates })
    }
}

/// Cuts a list of regexes where their text says so, not by count, so that an insertion changes one chunk only.
fn chunks<'a, 'r>(mut regexes: &'a [(usize, &'r Regex)]) -> impl Iterator<Item = &'a [(usize, &'r Regex)]> {
    let ends_chunk = |(_, regex): &(usize, &Regex)| {
        // FNV-1a: any hash that is the same each time will do.
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        regex.as_str().bytes().fold(0xcbf2_9ce4_8422_2325, hash) % SET_SIZE as u64 == 0
    };
    std::iter::from_fn(move || {
        let limit = regexes.len().min(SET_SIZE * 4);
        let end = regexes[..limit].iter().position(ends_chunk).map_or(limit, |last| last + 1);
        let (chunk, rest) = regexes.split_at(end);
        regexes = rest;
        (!chunk.is_empty()).then_some(chunk)
    })
}
