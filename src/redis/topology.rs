//! Which node has which slots, as a node says it.

use redis::{Value, from_redis_value};

use super::{servers::Address, slots};

#[derive(Clone, Debug, PartialEq)]
pub(super) struct Range {
    pub first: u16,
    pub last: u16,
    pub master: Address,
}

/// What `asked` answers to `CLUSTER SLOTS`, by slot. `None` where it is no answer.
pub(super) fn read(answer: Value, asked: &Address) -> Option<Vec<Range>> {
    let entries: Vec<Vec<Value>> = from_redis_value(answer).ok()?;
    let mut ranges = Vec::with_capacity(entries.len());
    for entry in entries {
        let mut entry = entry.into_iter();
        let mut slot = || {
            let slot: i64 = from_redis_value(entry.next()?).ok()?;
            u16::try_from(slot).ok().filter(|slot| *slot < slots::COUNT)
        };
        let (first, last) = (slot()?, slot()?);
        // Its replicas follow.
        let mut master = from_redis_value::<Vec<Value>>(entry.next()?).ok()?.into_iter();
        let host: Option<String> = from_redis_value(master.next()?).ok()?;
        let port: i64 = from_redis_value(master.next()?).ok()?;
        // One that does not know its own name yet has no address for others.
        let master = place(&host.unwrap_or_default(), u16::try_from(port).ok()?, asked);
        if let Some(master) = master.filter(|_| first <= last) {
            ranges.push(Range { first, last, master });
        }
    }
    ranges.sort_by_key(|range| range.first);
    Some(ranges)
}

/// How many slots somebody has, of ranges by slot.
pub(super) fn covered<'r>(ranges: impl IntoIterator<Item = &'r Range>) -> usize {
    let all = ranges.into_iter().fold((0, 0), |(count, next), range| {
        let (first, end) = (usize::from(range.first).max(next), usize::from(range.last) + 1);
        (count + end.saturating_sub(first), next.max(end))
    });
    all.0
}

/// The first slot that nobody has.
pub(super) fn gap<'r>(ranges: impl IntoIterator<Item = &'r Range>) -> Option<u16> {
    let covered = ranges.into_iter().fold(0, |next, range| match range.first <= next {
        true => next.max(range.last + 1),
        false => next,
    });
    (covered < slots::COUNT).then_some(covered)
}

/// Where `asked` sends to: `host:port`.
pub(super) fn address(to: &str, asked: &Address) -> Option<Address> {
    let (host, port) = to.rsplit_once(':')?;
    place(host, port.parse().ok()?, asked)
}

fn place(host: &str, port: u16, asked: &Address) -> Option<Address> {
    match (host, asked) {
        // The same as that of whoever says so.
        ("", Address::Tcp(host, _)) => Address::named(host, port),
        ("", Address::Unix(_)) => None,
        (host, _) => Address::named(host, port),
    }
}

#[cfg(test)]
mod tests {
    use redis::parse_redis_value;

    use super::*;

    fn asked() -> Address {
        Address::Tcp("a".to_owned(), 1)
    }

    #[test]
    fn slots_are_read_with_their_masters() {
        let answer = b"*3\r\n\
            *4\r\n:9000\r\n:16383\r\n*3\r\n$1\r\nb\r\n:7\r\n$2\r\nid\r\n*2\r\n$1\r\nc\r\n:8\r\n\
            *3\r\n:0\r\n:7000\r\n*4\r\n$-1\r\n:9\r\n$2\r\nid\r\n*0\r\n\
            *3\r\n:7001\r\n:8999\r\n*2\r\n$1\r\n?\r\n:9\r\n";
        let ranges = read(parse_redis_value(answer).unwrap(), &asked()).unwrap();
        let range = |first, last, host: &str, port| Range {
            first,
            last,
            master: Address::Tcp(host.to_owned(), port),
        };
        assert_eq!(ranges, [range(0, 7000, "a", 9), range(9000, 16_383, "b", 7)]);
    }

    #[test]
    fn what_somebody_has_is_counted_once_and_the_first_gap_is_found() {
        let of = |ranges: &[(u16, u16)]| {
            let range = |&(first, last)| Range { first, last, master: asked() };
            let ranges: Vec<Range> = ranges.iter().map(range).collect();
            (covered(&ranges), gap(&ranges))
        };
        assert_eq!(of(&[]), (0, Some(0)));
        assert_eq!(of(&[(0, 16_383)]), (16_384, None));
        assert_eq!(of(&[(0, 9), (5, 7), (8, 19), (30, 39)]), (30, Some(20)));
        assert_eq!(of(&[(1, 16_383)]), (16_383, Some(0)));
    }

    #[test]
    fn what_is_no_answer_is_none() {
        for answer in [
            &b"+OK\r\n"[..],
            b"*1\r\n:1\r\n",
            b"*1\r\n*3\r\n:0\r\n:16384\r\n*2\r\n$1\r\nb\r\n:7\r\n",
            b"*1\r\n*3\r\n:-1\r\n:1\r\n*2\r\n$1\r\nb\r\n:7\r\n",
            b"*1\r\n*3\r\n:65536\r\n:65537\r\n*2\r\n$1\r\nb\r\n:7\r\n",
            b"*1\r\n*3\r\n:0\r\n:1\r\n*2\r\n$1\r\nb\r\n:70000\r\n",
            b"*1\r\n*3\r\n:0\r\n:1\r\n*1\r\n$1\r\nb\r\n",
            b"*1\r\n*2\r\n:0\r\n:1\r\n",
        ] {
            assert_eq!(read(parse_redis_value(answer).unwrap(), &asked()), None, "{answer:?}");
        }
    }

    #[test]
    fn an_address_may_be_of_any_family_or_have_no_host() {
        for (to, host) in [("10.0.0.1:7", "10.0.0.1"), ("::1:7", "::1"), ("[::1]:7", "::1"), (":7", "a")] {
            assert_eq!(address(to, &asked()), Some(Address::Tcp(host.to_owned(), 7)), "{to}");
        }
        let long = format!("{}:7", "b".repeat(300));
        for to in ["", "b", "b:", "b:x", "b:0", "b:70000", "?:7", "b c:7", "b/c:7", &long] {
            assert_eq!(address(to, &asked()), None, "{to}");
        }
    }
}
