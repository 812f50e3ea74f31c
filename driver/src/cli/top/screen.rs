//! The terminal, taken over, and given back as it was whatever happens.
use std::io;

use anyhow::Context as _;
use crossterm::terminal::{Clear, ClearType};
use ratatui::DefaultTerminal;

/// A full screen. When it goes out of scope, and when any thread panics, the terminal is as it was before.
pub struct Screen(DefaultTerminal);

impl Screen {
    /// Raw mode, the alternate screen, and a panic hook that ends both before the message is printed.
    pub fn open() -> anyhow::Result<Self> {
        Ok(Self(ratatui::try_init().context("the terminal")?))
    }

    /// Forgets what is drawn: a window that was made small and large again has lost it, and to ratatui it
    /// has not changed. Its own `clear` asks the terminal for its cursor, which the event stream would answer.
    pub fn wipe(&mut self) -> io::Result<()> {
        crossterm::execute!(io::stdout(), Clear(ClearType::All))?;
        self.0.swap_buffers();
        Ok(())
    }

    /// Where to draw.
    pub fn terminal(&mut self) -> &mut DefaultTerminal {
        &mut self.0
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // It may be gone: then there is nothing to restore.
        let _ = self.0.show_cursor();
        // After a panic the hook has done it, and the message stands where the cursor would go back to.
        if !std::thread::panicking() {
            let _ = ratatui::try_restore();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Run by the test below, in a terminal of its own.
    #[test]
    #[ignore = "takes over the terminal and panics"]
    fn panics_on_the_screen() {
        let mut screen = Screen::open().unwrap();
        screen.terminal().draw(|frame| frame.render_widget("on the screen", frame.area())).unwrap();
        panic!("as it must not");
    }

    #[test]
    fn a_panic_gives_the_terminal_back() {
        use std::{
            fs::File,
            io::Read as _,
            process::{Command, Stdio},
        };

        use nix::{
            pty::{OpenptyResult, openpty},
            sys::termios::tcgetattr,
        };

        let OpenptyResult { master, slave } = openpty(None, None).unwrap();
        let before = tcgetattr(&slave).unwrap();
        let end = || Stdio::from(slave.try_clone().unwrap());
        let this = std::env::current_exe().unwrap();
        let mut child = {
            // Gone after the start: it holds the terminal open, too.
            let mut session = Command::new("setsid");
            session.args(["--ctty", "--wait"]).arg(this);
            session.args([
                "--exact",
                "cli::top::screen::tests::panics_on_the_screen",
                "--ignored",
                "--nocapture",
            ]);
            session.env("TERM", "xterm").env("RUST_BACKTRACE", "0");
            session.stdin(end()).stdout(end()).stderr(end());
            session.spawn().unwrap()
        };
        let reader = std::thread::spawn(move || {
            let (mut written, mut buffer, mut master) = (Vec::new(), [0; 4096], File::from(master));
            // EIO once the last of the other ends is closed.
            while let Ok(count @ 1..) = master.read(&mut buffer) {
                written.extend_from_slice(&buffer[..count]);
            }
            String::from_utf8_lossy(&written).into_owned()
        });
        assert!(!child.wait().unwrap().success());
        assert_eq!(tcgetattr(&slave).unwrap(), before);
        drop(slave);
        let written = reader.join().unwrap();
        let (on_screen, after) = written.rsplit_once("\x1b[?1049l").expect("the alternate screen is left");
        assert!(on_screen.contains("\x1b[?1049h"), "{written:?}");
        assert!(written.rfind("\x1b[?25h") > written.rfind("\x1b[?25l"), "the cursor is hidden: {written:?}");
        assert!(after.contains("as it must not") || on_screen.contains("as it must not"), "{written:?}");
        let message = written.find("as it must not").unwrap();
        assert!(written.find("\x1b[?1049l").unwrap() < message, "printed where nobody sees it: {written:?}");
    }
}
