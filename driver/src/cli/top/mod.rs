//! `top`: who moves how much, as it happens.
use std::{
    io::{self, IsTerminal as _},
    time::Duration,
};

use anyhow::{Context as _, bail};
use clap::Args;
use crossterm::event::{Event, EventStream, KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use futures_util::StreamExt as _;
use tokio::sync::{mpsc, watch};

use super::{
    Global,
    ending::Ending,
    rates::Meter,
    selection::{Selection, candidates},
    stats::{Look, look},
    table,
};

mod draw;
mod model;
mod screen;

use model::{Model, Sample};
use screen::Screen;

const STEPS: [u64; 7] = [200, 500, 1000, 2000, 5000, 10_000, 60_000];

/// Rx and Tx of each container as it happens, on a full screen
#[derive(Debug, Args)]
#[command(after_help = "\
A row is a container: frames and bits a second each way, frames with a foreign source MAC, frames that went
past the counters (BYPASS), and where frames are counted. Works while the driver is down. Press ? for the keys.

Examples:
  docker-passthrough top
  docker-passthrough top --network red
  docker-passthrough top --netdevice ens2f0 --interval 0.5

Exit codes: 0 done, 1 failed, no terminal, or no such container, network or netdev, 2 wrong usage.")]
pub struct TopArgs {
    #[command(flatten)]
    selection: Selection,
    /// Seconds between two looks
    #[arg(long, value_name = "SECONDS", default_value = "1", value_parser = interval)]
    interval: Duration,
}

fn interval(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().ok().filter(|seconds: &f64| (0.1..=3600.0).contains(seconds));
    seconds.map(Duration::from_secs_f64).ok_or_else(|| "must be 0.1 to 3600 seconds".into())
}

/// What is on the screen.
#[derive(Debug)]
pub struct Top {
    model: Model,
    every: Duration,
    /// A filter that is being typed.
    typing: Option<String>,
    help: bool,
    /// Why the last look failed.
    error: Option<String>,
    looked: bool,
    /// The first row that is shown, and how many fit.
    offset: usize,
    page: usize,
}

/// A look, or why there was none.
type Looked = anyhow::Result<Look>;

impl TopArgs {
    pub fn run(self, global: &Global) -> anyhow::Result<()> {
        if !io::stdout().is_terminal() || !io::stdin().is_terminal() {
            bail!("top needs a terminal; `docker-passthrough stats --watch` goes into files and pipes");
        }
        if table::size().is_none() {
            bail!("this terminal does not say how large it is: stty rows 24 columns 80");
        }
        // Looks wait for the kernel and for Docker: beside the screen, which must not.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
        let done = runtime.block_on(self.show(global));
        runtime.shutdown_background();
        done
    }

    async fn show(self, global: &Global) -> anyhow::Result<()> {
        // Before the screen is taken over: an error is read where it was typed.
        let Look { report, endpoints, .. } = look(global).await?;
        self.selection.check(&candidates(&report, &endpoints))?;
        let mut ending = Ending::listen()?;
        let (pace, every) = watch::channel(self.interval);
        let (send, mut looks) = mpsc::channel(1);
        tokio::spawn(keep_looking(global.clone(), every, send));
        let mut top = Top::new(self.interval);
        let mut meter = Meter::default();
        let mut screen = Screen::open()?;
        let mut events = EventStream::new();
        loop {
            screen.terminal().draw(|frame| draw::draw(frame, &mut top)).context("drawing")?;
            tokio::select! {
                event = events.next() => match event {
                    Some(event) => {
                        let event = event.context("the keyboard")?;
                        if let Event::Resize(..) = event {
                            screen.wipe().context("drawing")?;
                        }
                        if top.on_event(&event) {
                            return Ok(());
                        }
                        pace.send_if_modified(|every| std::mem::replace(every, top.every) != top.every);
                    }
                    None => return Ok(()),
                },
                looked = looks.recv() => match looked {
                    Some(looked) => top.take(looked, &mut meter, &self.selection),
                    None => bail!("nobody looks any more"),
                },
                () = ending.wanted() => return Ok(()),
            }
        }
    }
}

async fn keep_looking(global: Global, mut every: watch::Receiver<Duration>, to: mpsc::Sender<Looked>) {
    loop {
        let began = tokio::time::Instant::now();
        if to.send(look(&global).await).await.is_err() {
            return;
        }
        loop {
            let next = began + *every.borrow_and_update();
            tokio::select! {
                () = tokio::time::sleep_until(next) => break,
                // Another pace counts at once.
                changed = every.changed() => if changed.is_err() { return },
            }
        }
    }
}

impl Top {
    fn new(every: Duration) -> Self {
        Self {
            model: Model::default(),
            every,
            typing: None,
            help: false,
            error: None,
            looked: false,
            offset: 0,
            page: 0,
        }
    }

    fn take(&mut self, looked: Looked, meter: &mut Meter, selection: &Selection) {
        match looked {
            Ok(Look { at, endpoints: mut reports, .. }) => {
                reports.retain(|report| selection.has(report));
                let rates = meter.rates(at, &reports);
                self.model.update(
                    reports.iter().zip(rates).map(|(report, rates)| Sample::new(report, rates)).collect(),
                );
                self.error = None;
                self.looked = true;
            }
            Err(error) => self.error = Some(format!("{error:#}")),
        }
    }

    /// Whether it was the last one.
    fn on_event(&mut self, event: &Event) -> bool {
        match event {
            Event::Key(key) if key.kind != KeyEventKind::Release => self.on_key(*key),
            // A resize draws anew, as any event does.
            _ => false,
        }
    }

    fn on_key(&mut self, key: KeyEvent) -> bool {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            return key.code == KeyCode::Char('c');
        }
        if self.help {
            self.help = false;
            return false;
        }
        if self.typing.is_some() {
            self.on_typed(key.code);
            return false;
        }
        match key.code {
            KeyCode::Char('q') | KeyCode::Esc => return true,
            KeyCode::Char('?' | 'h') => self.help = true,
            KeyCode::Char('/') => self.typing = Some(String::new()),
            KeyCode::Char('r') => self.model.reverse = !self.model.reverse,
            KeyCode::Char('p' | ' ') => self.model.paused = !self.model.paused,
            KeyCode::Char('>') | KeyCode::Right => self.model.move_sort(true),
            KeyCode::Char('<') | KeyCode::Left => self.model.move_sort(false),
            KeyCode::Char('+') => self.every = step(self.every, true),
            KeyCode::Char('-') => self.every = step(self.every, false),
            KeyCode::Down => self.offset += 1,
            KeyCode::Up => self.offset = self.offset.saturating_sub(1),
            KeyCode::PageDown => self.offset += self.page,
            KeyCode::PageUp => self.offset = self.offset.saturating_sub(self.page),
            KeyCode::Home => self.offset = 0,
            KeyCode::End => self.offset = self.model.total(),
            _ => {}
        }
        false
    }

    /// What is typed filters at once.
    fn on_typed(&mut self, key: KeyCode) {
        let Some(filter) = &mut self.typing else { return };
        match key {
            KeyCode::Char(c) => filter.push(c),
            KeyCode::Backspace => _ = filter.pop(),
            KeyCode::Esc => filter.clear(),
            _ => {}
        }
        self.model.filter.clone_from(filter);
        self.offset = 0;
        if matches!(key, KeyCode::Enter | KeyCode::Esc) {
            self.typing = None;
        }
    }
}

/// The next longer or shorter pause.
fn step(every: Duration, longer: bool) -> Duration {
    let mut steps = STEPS.map(Duration::from_millis).into_iter();
    let found = if longer { steps.find(|step| *step > every) } else { steps.rfind(|step| *step < every) };
    found.unwrap_or(every)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(top: &mut Top, keys: &str) -> bool {
        keys.chars().any(|key| {
            let code = match key {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                key => KeyCode::Char(key),
            };
            top.on_key(KeyEvent::new(code, KeyModifiers::NONE))
        })
    }

    #[test]
    fn keys() {
        let mut top = Top::new(Duration::from_secs(1));
        assert!(!press(&mut top, "/qx\x08\n"), "q is typed, not pressed");
        assert_eq!((top.model.filter.as_str(), &top.typing), ("q", &None));
        press(&mut top, "/abc\x1b");
        assert_eq!(top.model.filter, "");
        assert!(!press(&mut top, "?q"), "any key closes the help");
        press(&mut top, "++-");
        assert_eq!(top.every, Duration::from_secs(2));
        press(&mut top, "-------");
        assert_eq!(top.every, Duration::from_millis(200));
        press(&mut top, "pr");
        assert!(top.model.paused && top.model.reverse);
        assert!(press(&mut top, "q"));
        assert!(top.on_key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)));
    }
}
