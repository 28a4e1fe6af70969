//! The tables of HPACK: the static one (RFC 7541, appendix A), and what has been remembered on this connection (section 2.3.2).

use std::collections::VecDeque;

/// SETTINGS_HEADER_TABLE_SIZE, of which neither side of ours says another.
const MOST: usize = 4096;
/// What each entry counts beside its name and value (section 4.1).
const OVERHEAD: usize = 32;

/// What is remembered.
pub(super) struct Table {
    fields: VecDeque<Field>,
    size: usize,
    most: usize,
}

/// Name and value in one piece.
pub(super) struct Field {
    bytes: Box<[u8]>,
    name: usize,
}

impl Default for Table {
    fn default() -> Table {
        Table { fields: VecDeque::new(), size: 0, most: MOST }
    }
}

impl Table {
    /// The name and the value at an index of both tables.
    pub(super) fn get(&self, index: usize) -> Option<(&[u8], &[u8])> {
        let index = index.checked_sub(1)?;
        match STATIC.get(index) {
            Some((name, value)) => Some((name.as_bytes(), value.as_bytes())),
            None => Some(self.fields.get(index - STATIC.len())?.parts()),
        }
    }

    /// The oldest make room; one that is larger than the table empties it (section 4.4).
    pub(super) fn insert(&mut self, field: Field) {
        let size = field.size();
        self.shrink(self.most.saturating_sub(size));
        if size <= self.most {
            self.size += size;
            self.fields.push_front(field);
        }
    }

    /// False where it would be larger than it may be.
    pub(super) fn resize(&mut self, most: usize) -> bool {
        if most > MOST {
            return false;
        }
        self.most = most;
        self.shrink(most);
        true
    }

    fn shrink(&mut self, most: usize) {
        while self.size > most
            && let Some(oldest) = self.fields.pop_back()
        {
            self.size -= oldest.size();
        }
    }
}

impl Field {
    pub(super) fn new(name: &[u8], value: &[u8]) -> Field {
        Field { bytes: [name, value].concat().into(), name: name.len() }
    }

    fn parts(&self) -> (&[u8], &[u8]) {
        self.bytes.split_at(self.name)
    }

    fn size(&self) -> usize {
        self.bytes.len() + OVERHEAD
    }
}

const STATIC: [(&str, &str); 61] = [
    (":authority", ""),
    (":method", "GET"),
    (":method", "POST"),
    (":path", "/"),
    (":path", "/index.html"),
    (":scheme", "http"),
    (":scheme", "https"),
    (":status", "200"),
    (":status", "204"),
    (":status", "206"),
    (":status", "304"),
    (":status", "400"),
    (":status", "404"),
    (":status", "500"),
    ("accept-charset", ""),
    ("accept-encoding", "gzip, deflate"),
    ("accept-language", ""),
    ("accept-ranges", ""),
    ("accept", ""),
    ("access-control-allow-origin", ""),
    ("age", ""),
    ("allow", ""),
    ("authorization", ""),
    ("cache-control", ""),
    ("content-disposition", ""),
    ("content-encoding", ""),
    ("content-language", ""),
    ("content-length", ""),
    ("content-location", ""),
    ("content-range", ""),
    ("content-type", ""),
    ("cookie", ""),
    ("date", ""),
    ("etag", ""),
    ("expect", ""),
    ("expires", ""),
    ("from", ""),
    ("host", ""),
    ("if-match", ""),
    ("if-modified-since", ""),
    ("if-none-match", ""),
    ("if-range", ""),
    ("if-unmodified-since", ""),
    ("last-modified", ""),
    ("link", ""),
    ("location", ""),
    ("max-forwards", ""),
    ("proxy-authenticate", ""),
    ("proxy-authorization", ""),
    ("range", ""),
    ("referer", ""),
    ("refresh", ""),
    ("retry-after", ""),
    ("server", ""),
    ("set-cookie", ""),
    ("strict-transport-security", ""),
    ("transfer-encoding", ""),
    ("user-agent", ""),
    ("vary", ""),
    ("via", ""),
    ("www-authenticate", ""),
];
