//! What plugins have set of one request: a few names with values, for other plugins and for whoever asks by name.

/// Of one request.
#[derive(Debug, Default)]
pub(crate) struct Properties(Vec<(Vec<u8>, Vec<u8>)>);

#[cfg(feature = "wasm")]
const MOST: usize = 64;
#[cfg(feature = "wasm")]
const MOST_BYTES: usize = 64 * 1024;

impl Properties {
    /// By the name that an operator writes, with dots between its segments.
    pub(crate) fn named(&self, name: &str) -> Option<&[u8]> {
        let is = |path: &[u8]| {
            path.len() == name.len()
                && path
                    .iter()
                    .zip(name.bytes())
                    .all(|(is, wanted)| *is == wanted || (*is == 0 && wanted == b'.'))
        };
        self.0.iter().find(|(path, _)| is(path)).map(|(_, value)| value.as_slice())
    }
}

#[cfg(feature = "wasm")]
impl Properties {
    /// False where that is too much.
    pub(crate) fn set(&mut self, path: Vec<u8>, value: Vec<u8>) -> bool {
        self.0.retain(|(other, _)| *other != path);
        let bytes: usize = self.0.iter().map(|(path, value)| path.len() + value.len()).sum();
        if self.0.len() == MOST || bytes + path.len() + value.len() > MOST_BYTES {
            return false;
        }
        self.0.push((path, value));
        true
    }

    pub(crate) fn find(&self, path: &[u8]) -> Option<&[u8]> {
        self.0.iter().find(|(other, _)| other == path).map(|(_, value)| value.as_slice())
    }
}

#[cfg(all(test, feature = "wasm"))]
mod tests {
    use super::*;

    #[test]
    fn there_are_so_many_at_most_and_the_last_value_counts() {
        let mut properties = Properties::default();
        assert!(
            properties.set(b"a".to_vec(), b"one".to_vec()) && properties.set(b"a".to_vec(), b"two".to_vec())
        );
        assert_eq!(properties.find(b"a"), Some(&b"two"[..]));
        assert!(properties.set(b"user\0id".to_vec(), b"7".to_vec()));
        assert_eq!((properties.named("user.id"), properties.named("user")), (Some(&b"7"[..]), None));
        let taken = (0..100_u8).filter(|n| properties.set(vec![b'n', *n], Vec::new())).count();
        assert_eq!(taken, MOST - 2);
        assert!(!properties.set(b"a".to_vec(), vec![0; MOST_BYTES]));
    }
}
