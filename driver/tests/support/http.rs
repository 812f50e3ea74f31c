//! HTTP/1.1 over a Unix socket, with every byte in the test's hand.
use std::{
    io::{self, ErrorKind, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
};

use serde_json::Value;

use super::PATIENCE;

/// A response.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The body, which has to be JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{} is not JSON: {e}", String::from_utf8_lossy(&self.body)))
    }

    /// What `{"Err": …}` says; panics if the answer is none.
    #[track_caller]
    pub fn complaint(&self) -> String {
        let json = self.json();
        let complaint = json["Err"].as_str().unwrap_or_default();
        assert!(!complaint.is_empty(), "no complaint but {}: {json}", self.status);
        complaint.to_owned()
    }
}

/// One connection.
pub struct Connection(UnixStream);

impl Connection {
    /// Connects, once.
    pub fn open(socket: &Path) -> io::Result<Self> {
        let stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Self(stream))
    }

    /// Writes what may be part of a request; a server that has answered already need not read it.
    pub fn send(&mut self, bytes: &[u8]) {
        match self.0.write_all(bytes) {
            Err(e) if !matches!(e.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset) => {
                panic!("writing a request: {e}")
            }
            _ => {}
        }
    }

    /// Sends the head and the body of a request as the engine does.
    pub fn send_request(&mut self, method: &str, path: &str, body: &[u8]) {
        self.send(head(method, path, body.len()).as_bytes());
        self.send(body);
    }

    /// Says that nothing more will be sent.
    pub fn shut_write(&self) {
        let _ = self.0.shutdown(std::net::Shutdown::Write);
    }

    /// Reads the head of a response, as far as the empty line.
    pub fn read_head(&mut self) -> io::Result<String> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match self.0.read(&mut byte) {
                Ok(0) => {
                    let got = String::from_utf8_lossy(&head).into_owned();
                    return Err(io::Error::new(ErrorKind::UnexpectedEof, format!("closed after {got:?}")));
                }
                Ok(_) => head.push(byte[0]),
                // With a time limit the kernel does not go on by itself after a stop.
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(String::from_utf8_lossy(&head).into_owned())
    }

    /// Reads one response.
    pub fn read_answer(&mut self) -> io::Result<Answer> {
        let head = self.read_head()?;
        let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).expect("a status line");
        let lower = head.to_lowercase();
        let length = lower.split("content-length:").nth(1).and_then(|rest| rest.lines().next());
        let mut body = Vec::new();
        if let Some(length) = length {
            body.resize(length.trim().parse().expect("a content length"), 0);
            self.0.read_exact(&mut body)?;
        } else {
            assert!(!lower.contains("chunked"), "the answers to an engine are short: {head}");
            self.0.read_to_end(&mut body)?;
        }
        Ok(Answer { status, head, body })
    }

    /// Whether the server has closed it.
    pub fn is_closed(&mut self) -> bool {
        matches!(self.0.read(&mut [0]), Ok(0))
    }
}

/// The head that the engine sends.
pub fn head(method: &str, path: &str, length: usize) -> String {
    format!(
        "{method} {path} HTTP/1.1\r\nHost: plugin.moby.localhost\r\n\
         Accept: application/vnd.docker.plugins.v1.2+json\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// One request on a connection of its own.
pub fn request(socket: &Path, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
    let mut connection = Connection::open(socket)?;
    connection.send_request(method, path, body);
    connection.read_answer()
}
