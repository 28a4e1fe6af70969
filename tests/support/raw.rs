//! HTTP/1.1 byte by byte, for what a well-behaved client cannot send. Blocking: use it from multi-threaded tests.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

use super::DEADLINE;

/// Writes exactly `bytes` and returns everything that comes back until the other side closes (or resets).
///
/// Panics when no byte comes within [`DEADLINE`]: ask for `connection: close`, or use a `RawConnection`.
pub(crate) fn raw(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut connection = RawConnection::open(address);
    // The answer to a bad request may come, and the connection go, before all of it is written.
    let _ = connection.stream.write_all(bytes.as_ref());
    connection.read_to_end()
}

/// One response as it was written.
#[derive(Debug)]
pub(crate) struct RawResponse {
    /// `HTTP/1.1`, if all is well.
    pub version: String,
    pub status: u16,
    /// In order, names as they were spelt.
    pub headers: Vec<(String, String)>,
    /// Without the framing of chunks.
    pub body: Vec<u8>,
}

impl RawResponse {
    /// The first value of that header.
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let header = self.headers.iter().find(|(given, _)| given.eq_ignore_ascii_case(name));
        header.map(|(_, value)| value.as_str())
    }

    #[track_caller]
    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    /// The gateway itself answered, and for this reason.
    #[track_caller]
    pub(crate) fn assert_reason(&self, status: u16, reason: &str) {
        assert_eq!((self.status, self.header("x-tidegate-reason")), (status, Some(reason)), "{self:?}");
    }
}

/// A connection whose every byte the test chooses.
pub(crate) struct RawConnection {
    stream: TcpStream,
    /// Read but not yet returned.
    buffer: Vec<u8>,
}

impl RawConnection {
    #[track_caller]
    pub(crate) fn open(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream, buffer: Vec::new() }
    }

    /// The client's end of the connection, as the gateway should see it.
    pub(crate) fn local_address(&self) -> SocketAddr {
        self.stream.local_addr().unwrap()
    }

    #[track_caller]
    pub(crate) fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).unwrap();
    }

    /// Writes as much of `bytes` as the other side takes before it closes.
    pub(crate) fn write_what_goes(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref());
    }

    /// Half-closes: the other side reads the end, answers can still be read.
    #[track_caller]
    pub(crate) fn finish_writing(&mut self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// The next response, interim ones (1xx) included: those have no body.
    #[track_caller]
    pub(crate) fn read_response(&mut self) -> RawResponse {
        let mut response = self.read_head();
        let chunked = response.header("transfer-encoding").is_some_and(|coding| coding.contains("chunked"));
        let length = response.header("content-length").map(|length| length.parse().unwrap());
        response.body = match (response.status, chunked, length) {
            (100..200 | 204 | 304, ..) => Vec::new(),
            (_, true, _) => self.read_chunks(),
            (_, false, Some(length)) => self.read_exactly(length),
            (_, false, None) => self.read_to_end(),
        };
        response
    }

    /// The next response's status line and headers: all there is in answer to HEAD.
    #[track_caller]
    pub(crate) fn read_head(&mut self) -> RawResponse {
        let head = self.read_through(b"\r\n\r\n");
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.trim_end().split("\r\n");
        let status_line = lines.next().unwrap_or_default();
        let status = match status_line.split(' ').nth(1).and_then(|status| status.parse().ok()) {
            Some(status) if status_line.starts_with("HTTP/1.") => status,
            _ => panic!("not the head of a response: {head:?}"),
        };
        let headers = lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("not a header: {line:?} in {head:?}")))
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .collect();
        let version = status_line[..8].to_owned();
        RawResponse { version, status, headers, body: Vec::new() }
    }

    /// Exactly `length` bytes.
    #[track_caller]
    pub(crate) fn read_exactly(&mut self, length: usize) -> Vec<u8> {
        while self.buffer.len() < length {
            self.fill();
        }
        self.buffer.drain(..length).collect()
    }

    /// Everything until the other side closes or resets.
    #[track_caller]
    pub(crate) fn read_to_end(&mut self) -> Vec<u8> {
        while self.receive().unwrap_or_else(|error| self.silence(error)) > 0 {}
        std::mem::take(&mut self.buffer)
    }

    /// Waits for the other side to close; false when it sends something instead, or nothing within [`DEADLINE`].
    /// To prove that a connection is still open, send another request on it.
    pub(crate) fn is_closed(&mut self) -> bool {
        self.buffer.is_empty() && self.receive().is_ok_and(|received| received == 0)
    }

    #[track_caller]
    fn read_chunks(&mut self) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let line = self.read_through(b"\r\n");
            let size = String::from_utf8_lossy(&line);
            let size = size.trim_end().split(';').next().unwrap_or_default();
            let size = usize::from_str_radix(size, 16).unwrap_or_else(|_| panic!("not a chunk: {line:?}"));
            if size == 0 {
                // Trailers, if any, up to the empty line.
                while self.read_through(b"\r\n") != b"\r\n" {}
                return body;
            }
            body.extend(self.read_exactly(size));
            assert_eq!(self.read_exactly(2), b"\r\n", "the end of a chunk");
        }
    }

    #[track_caller]
    fn read_through(&mut self, end: &[u8]) -> Vec<u8> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                return self.buffer.drain(..at + end.len()).collect();
            }
            self.fill();
        }
    }

    #[track_caller]
    fn fill(&mut self) {
        if self.receive().unwrap_or_else(|error| self.silence(error)) == 0 {
            panic!("closed in the middle of a response, after {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    #[track_caller]
    fn silence(&self, error: io::Error) -> ! {
        panic!("nothing to read: {error}, after {:?}", String::from_utf8_lossy(&self.buffer));
    }

    /// How many bytes came; 0 when the connection is closed or reset.
    fn receive(&mut self) -> io::Result<usize> {
        let mut chunk = [0; 16 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(received) => {
                self.buffer.extend_from_slice(&chunk[..received]);
                Ok(received)
            }
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            // A child has ended meanwhile: reads with a time limit are not begun again by the system.
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.receive(),
            Err(error) => Err(error),
        }
    }
}
