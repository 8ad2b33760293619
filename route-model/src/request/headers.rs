//! The header fields of a message, as a list.

use http::header::{HeaderMap, HeaderName, HeaderValue};

/// Header fields in the order in which they came.
///
/// Messages have a dozen or two of them: to look through so short a list costs less than to hash names, of which
/// standard ones are compared as numbers. Methods are called as those of [`HeaderMap`], but repeated fields stay where
/// they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers {
    fields: Vec<(HeaderName, HeaderValue)>,
}

impl Headers {
    pub const fn new() -> Self {
        Self { fields: Vec::new() }
    }

    pub fn with_capacity(fields: usize) -> Self {
        Self { fields: Vec::with_capacity(fields) }
    }

    /// How many fields fit without allocating.
    pub fn capacity(&self) -> usize {
        self.fields.capacity()
    }

    /// How many fields there are; a repeated one counts each time.
    pub fn len(&self) -> usize {
        self.fields.len()
    }

    pub fn is_empty(&self) -> bool {
        self.fields.is_empty()
    }

    pub fn clear(&mut self) {
        self.fields.clear();
    }

    /// The first value of a name.
    pub fn get(&self, name: impl PartialEq<HeaderName>) -> Option<&HeaderValue> {
        self.fields.iter().find(|(field, _)| name == *field).map(|(_, value)| value)
    }

    /// All values of a name.
    pub fn get_all<N: PartialEq<HeaderName> + Clone>(
        &self,
        name: N,
    ) -> impl DoubleEndedIterator<Item = &HeaderValue> + Clone + use<'_, N> {
        self.fields.iter().filter(move |(field, _)| name == *field).map(|(_, value)| value)
    }

    pub fn contains_key(&self, name: impl PartialEq<HeaderName>) -> bool {
        self.get(name).is_some()
    }

    /// The names in the order of their fields; a repeated one comes each time.
    pub fn keys(&self) -> impl Iterator<Item = &HeaderName> {
        self.fields.iter().map(|(name, _)| name)
    }

    pub fn iter(&self) -> <&Self as IntoIterator>::IntoIter {
        self.into_iter()
    }

    /// Adds a field behind those that are there.
    pub fn append(&mut self, name: impl Into<HeaderName>, value: HeaderValue) {
        self.fields.push((name.into(), value));
    }

    /// Makes this the only field of its name: in the place of the first that was there, else at the end.
    pub fn insert(&mut self, name: impl Into<HeaderName>, value: HeaderValue) {
        let name = name.into();
        match self.fields.iter().position(|(field, _)| *field == name) {
            None => self.fields.push((name, value)),
            Some(first) => {
                self.fields[first].1 = value;
                self.remove_from(first + 1, &name);
            }
        }
    }

    /// Takes all fields of a name out; answers the first value.
    pub fn remove(&mut self, name: impl PartialEq<HeaderName>) -> Option<HeaderValue> {
        let first = self.fields.iter().position(|(field, _)| name == *field)?;
        let (_, value) = self.fields.remove(first);
        self.remove_from(first, &name);
        Some(value)
    }

    fn remove_from(&mut self, start: usize, name: &impl PartialEq<HeaderName>) {
        if self.fields[start..].iter().any(|(field, _)| *name == *field) {
            let mut index = 0;
            self.fields.retain(|(field, _)| {
                index += 1;
                index <= start || *name != *field
            });
        }
    }
}

impl<'a> IntoIterator for &'a Headers {
    type Item = (&'a HeaderName, &'a HeaderValue);
    type IntoIter = std::iter::Map<
        std::slice::Iter<'a, (HeaderName, HeaderValue)>,
        fn(&'a (HeaderName, HeaderValue)) -> (&'a HeaderName, &'a HeaderValue),
    >;

    fn into_iter(self) -> Self::IntoIter {
        self.fields.iter().map(|(name, value)| (name, value))
    }
}

impl Extend<(HeaderName, HeaderValue)> for Headers {
    /// Appends.
    fn extend<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(&mut self, fields: T) {
        self.fields.extend(fields);
    }
}

impl FromIterator<(HeaderName, HeaderValue)> for Headers {
    fn from_iter<T: IntoIterator<Item = (HeaderName, HeaderValue)>>(fields: T) -> Self {
        Self { fields: fields.into_iter().collect() }
    }
}

impl From<HeaderMap> for Headers {
    fn from(map: HeaderMap) -> Self {
        let mut headers = Self::with_capacity(map.len());
        let mut repeated: Option<HeaderName> = None;
        for (name, value) in map {
            // Further values of a name come without it.
            if let Some(name) = name.or_else(|| repeated.clone()) {
                repeated = Some(name.clone());
                headers.append(name, value);
            }
        }
        headers
    }
}

impl From<Headers> for HeaderMap {
    fn from(headers: Headers) -> Self {
        let mut map = Self::with_capacity(headers.len());
        for (name, value) in headers.fields {
            map.append(name, value);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Clone, Debug)]
    enum Step {
        Append(usize, u16),
        Insert(usize, u16),
        Remove(usize),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0..5usize, any::<u16>()).prop_map(|(name, value)| Step::Append(name, value)),
            (0..5usize, any::<u16>()).prop_map(|(name, value)| Step::Insert(name, value)),
            (0..5usize).prop_map(Step::Remove),
        ];
        proptest::collection::vec(step, 0..40)
    }

    proptest! {
        #[test]
        fn the_list_does_what_the_map_does(steps in steps()) {
            let names = ["host", "cookie", "x-a", "x-b", "x-bb"].map(HeaderName::from_static);
            let (mut list, mut map) = (Headers::new(), HeaderMap::new());
            for step in steps {
                match step {
                    Step::Append(name, value) => {
                        list.append(names[name].clone(), value.into());
                        map.append(&names[name], value.into());
                    }
                    Step::Insert(name, value) => {
                        list.insert(names[name].clone(), value.into());
                        map.insert(&names[name], value.into());
                    }
                    Step::Remove(name) => prop_assert_eq!(list.remove(&names[name]), map.remove(&names[name])),
                }
                prop_assert_eq!(list.len(), map.len());
                for name in &names {
                    prop_assert_eq!(list.get(name), map.get(name));
                    prop_assert_eq!(list.get(name.as_str()), map.get(name));
                    prop_assert!(list.get_all(name).eq(map.get_all(name)));
                    prop_assert!(list.get_all(name).rev().eq(map.get_all(name).iter().rev()));
                }
            }
            prop_assert_eq!(HeaderMap::from(list.clone()), map.clone());
            prop_assert_eq!(HeaderMap::from(Headers::from(map.clone())), map);
        }
    }
}
