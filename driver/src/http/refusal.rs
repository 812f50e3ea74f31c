//! An answer for who called while nobody could serve: systemd holds the socket, and its callers wait.
use std::{
    io::{self, Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    time::{Duration, Instant},
};

use serde_json::json;

/// So many are told; others start the next attempt.
const CALLERS: usize = 64;

/// How long all of them are told, and how long one is listened to.
const IN_ALL: Duration = Duration::from_secs(5);
const EACH: Duration = Duration::from_millis(200);

/// As much of a request is read: none of Docker's is longer.
const REQUEST: u64 = 64 << 10;

/// Answers each call that waits with the reason why there is no service. Blocks.
pub fn refuse_waiting(socket: &UnixListener, reason: &str) -> io::Result<()> {
    socket.set_nonblocking(true)?;
    let begun = Instant::now();
    for _ in 0..CALLERS {
        let caller = match socket.accept() {
            Ok((caller, _)) => caller,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => return Err(error),
        };
        // Whoever went away meanwhile is no reason to leave the others without an answer.
        let _ = refuse(caller, reason);
        if begun.elapsed() > IN_ALL {
            break;
        }
    }
    Ok(())
}

fn refuse(mut caller: UnixStream, reason: &str) -> io::Result<()> {
    caller.set_nonblocking(false)?;
    caller.set_read_timeout(Some(EACH))?;
    caller.set_write_timeout(Some(EACH))?;
    // All of it, as far as it comes: what is left unread resets the connection, and the answer with it.
    let _ = (&caller).take(REQUEST).read_to_end(&mut Vec::new());
    let body = json!({"Err": reason}).to_string();
    let head = "HTTP/1.1 500 Internal Server Error\r\nContent-Type: application/json\r\nConnection: close";
    caller.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes())
}
