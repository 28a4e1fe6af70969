//! Server-sent events, as they come in pieces. Lines end with LF or CRLF, as the control plane's do.

/// A page of 1,000 of the largest instances fits in.
const LARGEST: usize = 32 * 1024 * 1024;

#[derive(Debug, Default, PartialEq)]
pub(crate) struct Event {
    pub(crate) kind: String,
    pub(crate) id: Option<String>,
    pub(crate) data: String,
}

#[derive(Debug, Default)]
pub(crate) struct Events {
    line: Vec<u8>,
    event: Event,
}

impl Events {
    /// What has become whole with these bytes; an error where it is no stream of events.
    pub(crate) fn read(&mut self, bytes: &[u8]) -> Result<Vec<Event>, &'static str> {
        let mut whole = Vec::new();
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            if self.line.len() + self.event.data.len() + part.len() > LARGEST {
                return Err("an event that is too large");
            }
            self.line.extend_from_slice(part);
            if part.ends_with(b"\n") {
                let line = std::mem::take(&mut self.line);
                whole.extend(self.take(&line)?);
            }
        }
        Ok(whole)
    }

    fn take(&mut self, line: &[u8]) -> Result<Option<Event>, &'static str> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let line = str::from_utf8(line.strip_suffix(b"\r").unwrap_or(line))
            .map_err(|_| "an event that is no text")?;
        if line.is_empty() {
            let event = std::mem::take(&mut self.event);
            return Ok((!event.data.is_empty()).then_some(event));
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.event.kind = value.to_owned(),
            "id" => self.event.id = Some(value.to_owned()),
            "data" => {
                if !self.event.data.is_empty() {
                    self.event.data.push('\n');
                }
                self.event.data.push_str(value);
            }
            // A comment has no name.
            _ => {}
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": 9:1\n\nevent: sync\nid: 9:4\ndata: {\"a\":\ndata: 1}\n\nretry: 5\r\nevent:updated\r\ndata:ü\r\n\r\nid: 9:5\n\n";

    #[test]
    fn it_makes_no_difference_in_which_pieces_they_come() {
        let wanted = [
            Event { kind: "sync".into(), id: Some("9:4".into()), data: "{\"a\":\n1}".into() },
            Event { kind: "updated".into(), id: None, data: "ü".into() },
        ];
        for size in 1..STREAM.len() {
            let mut events = Events::default();
            let found = STREAM.as_bytes().chunks(size).flat_map(|chunk| events.read(chunk).unwrap());
            assert_eq!(found.collect::<Vec<_>>(), wanted, "in pieces of {size}");
        }
    }

    #[test]
    fn what_has_no_end_is_given_up() {
        let mut events = Events::default();
        let piece = vec![b'x'; 1024 * 1024];
        let pieces = (0..100).take_while(|_| events.read(&piece).is_ok()).count();
        assert_eq!(pieces, LARGEST / piece.len());
        assert!(Events::default().read(b"data: \xff\n").is_err());
    }
}
