//! `tracestate`: W3C Trace Context, level 2, section 3.3. One bad member, or a key that comes twice, makes all of it void, but
//! never the traceparent.

use http::{HeaderMap, HeaderValue};

use super::{id::hex, w3c::TRACESTATE};

/// The members in their order, as one field. At least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct State(String);

const MOST_MEMBERS: usize = 32;
/// Our own member (OpenTelemetry, Probability Sampling).
const OURS: &str = "ot";
/// Longest value of it.
const OURS_LENGTH: usize = 256;

impl State {
    /// Fields are joined in order; empty members are left out.
    pub(crate) fn read(headers: &HeaderMap) -> Option<State> {
        let mut joined = String::new();
        let mut keys = [""; MOST_MEMBERS];
        let mut count = 0;
        for value in headers.get_all(&TRACESTATE) {
            for member in value.to_str().ok()?.split(',') {
                let member = member.trim_matches([' ', '\t']);
                if member.is_empty() {
                    continue;
                }
                let key = key_of(member)?;
                if keys[..count].contains(&key) {
                    return None;
                }
                *keys.get_mut(count)? = key;
                count += 1;
                if !joined.is_empty() {
                    joined.push(',');
                }
                joined.push_str(member);
            }
        }
        (!joined.is_empty()).then_some(State(joined))
    }

    /// With nothing but our own member.
    pub(crate) fn of_threshold(threshold: &str) -> State {
        State(format!("{OURS}=th:{threshold}"))
    }

    /// The random value that takes the place of the trace id's last bits (`rv`).
    pub(crate) fn randomness(&self) -> Option<u64> {
        let digits = self.ours()?.split(';').find_map(|part| part.strip_prefix("rv:"))?;
        let bytes: [u8; 7] = hex(digits.as_bytes())?;
        let mut wide = [0; 8];
        wide[1..].copy_from_slice(&bytes);
        Some(u64::from_be_bytes(wide))
    }

    /// With this sampling threshold in our member, or without any. A member that is changed moves to the front, and where it
    /// is one too many, the last goes. `None` where nothing is left.
    pub(crate) fn with_threshold(self, threshold: Option<&str>) -> Option<State> {
        let before = self.ours().unwrap_or_default();
        let others = before.split(';').filter(|part| !part.is_empty() && !part.starts_with("th:"));
        let th = threshold.map(|threshold| format!("th:{threshold}"));
        let parts: Vec<&str> = th.as_deref().into_iter().chain(others).collect();
        let joined = parts.join(";");
        // No value ends with a space: whoever reads it takes that off.
        let after = joined.trim_end_matches(' ');
        if after == before {
            return Some(self);
        }
        let ours = (!after.is_empty() && after.len() <= OURS_LENGTH).then(|| format!("{OURS}={after}"));
        let rest = self.members().filter(|member| !is_ours(member));
        let members: Vec<&str> = ours.as_deref().into_iter().chain(rest).take(MOST_MEMBERS).collect();
        (!members.is_empty()).then(|| State(members.join(",")))
    }

    /// As the field has it.
    pub(crate) fn value(&self) -> Option<HeaderValue> {
        HeaderValue::from_str(&self.0).ok()
    }

    fn members(&self) -> impl Iterator<Item = &str> {
        self.0.split(',')
    }

    fn ours(&self) -> Option<&str> {
        self.members().find(|member| is_ours(member))?.get(OURS.len() + 1..)
    }
}

/// Puts the tracestate into one field, or takes it off.
///
/// # Errors
///
/// There are too many fields to take another.
pub(crate) fn write(
    headers: &mut HeaderMap,
    state: Option<&State>,
) -> Result<(), http::header::MaxSizeReached> {
    match state.and_then(State::value) {
        Some(value) => drop(headers.try_insert(TRACESTATE, value)?),
        None => drop(headers.remove(TRACESTATE)),
    }
    Ok(())
}

fn is_ours(member: &str) -> bool {
    member.strip_prefix(OURS).is_some_and(|rest| rest.starts_with('='))
}

/// That of `key=value`, if it is well-formed. Keys of level 2: `foo@@bar` is one.
fn key_of(member: &str) -> Option<&str> {
    let (key, value) = member.split_once('=')?;
    let is_key = key.len() <= 256
        && key.starts_with(|first: char| first.is_ascii_lowercase() || first.is_ascii_digit())
        && key
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'*' | b'/' | b'@' | b'-'));
    let is_value = (1..=256).contains(&value.len())
        && value.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'=' && byte != b',');
    (is_key && is_value).then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(fields: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for field in fields {
            headers.append(TRACESTATE, HeaderValue::from_str(field).unwrap());
        }
        State::read(&headers).map(|state| state.0)
    }

    fn state(text: &str) -> State {
        State(text.into())
    }

    #[test]
    fn fields_are_joined_in_order_and_empty_members_are_left_out() {
        assert_eq!(read(&["foo=1,bar=2", "", " , rojo=3\t,"]).unwrap(), "foo=1,bar=2,rojo=3");
        assert_eq!(read(&["foo@@bar=1, tenant@vendor=a b"]).unwrap(), "foo@@bar=1,tenant@vendor=a b");
        assert_eq!(read(&["", ","]), None);
    }

    #[test]
    fn one_bad_member_makes_all_of_it_void() {
        let long = format!("{}=1", "k".repeat(257));
        let huge = format!("foo={}", "v".repeat(10_000));
        for bad in ["foo", "foo=", "=1", "Foo=1", "foo=a=b", "-foo=1", "foo bar=1", "foo =1", &long, &huge] {
            assert_eq!(read(&["good=1", bad]), None, "{bad}");
        }
        for twice in [&["foo=1,foo=2"][..], &["foo=1", "bar=2", "foo=1"]] {
            assert_eq!(read(twice), None, "{twice:?}");
        }
        let many: Vec<String> = (0..33).map(|n| format!("m{n}=1")).collect();
        assert_eq!(read(&[&many.join(",")]), None);
        assert!(read(&[&many[..32].join(",")]).is_some());
        assert_eq!(read(&[&format!("{}=1", "k".repeat(256))]).map(|state| state.len()), Some(258));
    }

    #[test]
    fn our_member_moves_to_the_front_when_it_changes_and_pushes_out_the_last() {
        let with = |text: &str, th: Option<&str>| state(text).with_threshold(th).map(|state| state.0);
        assert_eq!(with("a=1,b=2", Some("8")).unwrap(), "ot=th:8,a=1,b=2");
        assert_eq!(
            with("a=1,ot=th:8;rv:00000000000001", Some("8")).unwrap(),
            "a=1,ot=th:8;rv:00000000000001"
        );
        assert_eq!(
            with("a=1,ot=rv:00000000000001;th:c", Some("8")).unwrap(),
            "ot=th:8;rv:00000000000001,a=1"
        );
        assert_eq!(with("a=1,ot=th:8;x:y", None).unwrap(), "ot=x:y,a=1");
        assert_eq!(with("a=1,ot=x: ;th:8", None).unwrap(), "ot=x:,a=1", "no value ends with a space");
        assert_eq!(with("ot=th:8", None), None);
        assert_eq!(with("other=th:8", None).unwrap(), "other=th:8");
        let full: Vec<String> = (0..32).map(|n| format!("m{n}=1")).collect();
        let pushed = with(&full.join(","), Some("0")).unwrap();
        assert!(pushed.starts_with("ot=th:0,m0=1,") && pushed.ends_with(",m30=1"), "{pushed}");
    }

    #[test]
    fn randomness_is_read_from_14_digits_only() {
        assert_eq!(state("ot=th:0;rv:00000000000102").randomness(), Some(0x102));
        for none in ["ot=th:0", "ot=rv:102", "ot=rv:0000000000010G", "to=rv:00000000000102"] {
            assert_eq!(state(none).randomness(), None, "{none}");
        }
    }
}
