//! A terminal that a person could sit at: a program runs in it, keys are pressed, the screen is read.
use std::{
    fs::File,
    io::{Read as _, Write as _},
    num::NonZero,
    os::fd::OwnedFd,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread,
};

use nix::{
    pty::{OpenptyResult, Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{Termios, tcgetattr},
    },
    unistd::Pid,
};

use super::eventually;

nix::ioctl_write_ptr_bad!(set_size, nix::libc::TIOCSWINSZ, Winsize);

fn many(count: u16) -> NonZero<u16> {
    NonZero::new(count).expect("a size")
}

/// A pseudo-terminal, and the program in it.
pub struct Terminal {
    keyboard: File,
    /// Held, so that its settings can be read when the program has ended.
    line: OwnedFd,
    screen: Arc<Mutex<vt100::Parser>>,
    raw: Arc<Mutex<Vec<u8>>>,
    child: Child,
    before: Termios,
}

impl Terminal {
    /// Runs `command` in a terminal of its own, which is its controlling one.
    #[track_caller]
    pub fn run(command: &Command, rows: u16, columns: u16) -> Self {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Self::run_in(command, size, rows, columns)
    }

    /// The same, in one that does not say how large it is, such as a serial console.
    #[track_caller]
    pub fn of_unknown_size(command: &Command) -> Self {
        let size = Winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
        Self::run_in(command, size, 24, 80)
    }

    #[track_caller]
    fn run_in(command: &Command, size: Winsize, rows: u16, columns: u16) -> Self {
        let OpenptyResult { master, slave } = openpty(Some(&size), None).expect("a pseudo-terminal");
        let before = tcgetattr(&slave).expect("the terminal's settings");
        let end = || Stdio::from(slave.try_clone().expect("the terminal"));
        let mut session = Command::new("setsid");
        session.args(["--ctty", "--wait"]).arg(command.get_program());
        // Else it would take the program into the background, where a terminal is not read.
        if command.get_program() == "timeout" {
            session.arg("--foreground");
        }
        session.args(command.get_args());
        session.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        session.env("TERM", "xterm-256color").stdin(end()).stdout(end()).stderr(end());
        let child = session.spawn().expect("setsid (package util-linux)");
        let screen = Arc::new(Mutex::new(vt100::Parser::new(many(rows), many(columns), 0)));
        let raw = Arc::new(Mutex::new(Vec::new()));
        let mut shown = File::from(master.try_clone().expect("the terminal"));
        let (parser, bytes) = (Arc::clone(&screen), Arc::clone(&raw));
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = shown.read(&mut buffer) {
                parser.lock().expect("the screen").process(&buffer[..count]);
                bytes.lock().expect("the bytes").extend_from_slice(&buffer[..count]);
            }
        });
        Self { keyboard: File::from(master), line: slave, screen, raw, child, before }
    }

    /// Types.
    #[track_caller]
    pub fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).expect("the keyboard");
    }

    /// What there is to read, a line a row.
    pub fn text(&self) -> String {
        self.parser().screen().contents()
    }

    /// All that was ever written to it.
    pub fn written(&self) -> String {
        String::from_utf8_lossy(&self.raw.lock().unwrap_or_else(PoisonError::into_inner)).into_owned()
    }

    /// The screen.
    pub fn parser(&self) -> MutexGuard<'_, vt100::Parser> {
        self.screen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the screen is as `check` wants it.
    #[track_caller]
    pub fn shows<T>(&self, what: &str, check: impl Fn(&str) -> Option<T>) -> T {
        eventually(what, || check(&self.text()).ok_or_else(|| format!("the screen:\n{}", self.text())))
    }

    /// Gives the window another size.
    #[track_caller]
    pub fn resize(&self, rows: u16, columns: u16) {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        self.parser().screen_mut().set_size(many(rows), many(columns));
        // SAFETY: the descriptor is a terminal's that we own, and the size is read during the call only.
        unsafe { set_size(std::os::fd::AsRawFd::as_raw_fd(&self.keyboard), &raw const size) }
            .expect("a size");
    }

    /// Signals the program, not its terminal.
    #[track_caller]
    pub fn signal(&self, signal: Signal) {
        // setsid forks if it leads a group already: its child is the program then.
        let pid = self.child.id();
        let children =
            std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let pid = children.split_whitespace().next().map_or(pid, |child| child.parse().expect("a pid"));
        kill(Pid::from_raw(pid.try_into().expect("a pid")), signal).expect("a signal");
    }

    /// Waits for the end of the program.
    #[track_caller]
    pub fn end(&mut self) -> ExitStatus {
        eventually("the program ends", || {
            let ended = self.child.try_wait().expect("its status");
            ended.ok_or_else(|| format!("the screen:\n{}", self.parser().screen().contents()))
        })
    }

    /// Panics unless the terminal is as it was before: its settings, its screen, its cursor.
    #[track_caller]
    pub fn assert_restored(&self) {
        assert_eq!(tcgetattr(&self.line).expect("the terminal's settings"), self.before);
        eventually("screen and cursor are back", || {
            let parser = self.parser();
            match (parser.screen().alternate_screen(), parser.screen().hide_cursor()) {
                (false, false) => Ok(()),
                other => Err(format!("alternate screen, hidden cursor: {other:?}")),
            }
        });
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
