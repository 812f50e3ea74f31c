//! `top`, in a terminal that a person could sit at.
use nix::sys::signal::Signal;

use crate::support::{
    assert_names, command,
    driver::{BINARY, Driver},
    eventually,
    nic::Nic,
    simulated::{self, Container},
    terminal::Terminal,
    trials,
};

trials![
    real_traffic_in_its_row,
    sorted_filtered_paused_and_explained,
    any_size_of_window,
    signals_give_the_terminal_back,
    no_terminal_no_screen,
];

const WIDE: (u16, u16) = (24, 120);

#[track_caller]
fn top(driver: &Driver, options: &[&str], (rows, columns): (u16, u16)) -> Terminal {
    let mut command = driver.command("top");
    command.args(["--interval", "0.2"]).args(options);
    let terminal = Terminal::run(&command, rows, columns);
    terminal.shows("the first look", |text| {
        (text.contains("containers, every") && !text.contains("Looking")).then_some(())
    });
    terminal
}

/// The cells of an endpoint's row.
fn row(text: &str, endpoint: &str) -> Option<Vec<String>> {
    let line = text.lines().find(|line| line.starts_with(&endpoint[..8]))?;
    Some(line.split_whitespace().map(str::to_owned).collect())
}

fn real_traffic_in_its_row() {
    let (driver, nic, idle) = (Driver::start(), Nic::new(), Nic::new());
    let networks = [&nic, &idle].map(|nic| simulated::create_network(&driver, nic));
    let container = Container::start(&driver, &nic, &networks[0]);
    let other = Container::start(&driver, &idle, &networks[1]);
    // It reads pins: no driver is needed.
    driver.terminate();
    let mut terminal = top(&driver, &[], WIDE);
    let flood = container.netns.background(&format!("busybox ping -i 0.01 -s 1000 {}", nic.far4()));
    let cells = terminal.shows("the traffic", |text| {
        let cells = row(text, &container.endpoint)?;
        let (rx, tx): (f64, f64) = (cells.get(2)?.parse().ok()?, cells.get(5)?.parse().ok()?);
        (rx > 5.0 && tx > 5.0).then_some(cells)
    });
    assert_names(&cells.join(" "), &["tcx/tcx", "k"]);
    assert!(cells.last().unwrap().contains('█'), "a line of bars: {cells:?}");
    // The busiest first.
    let text = terminal.text();
    let place = |endpoint: &str| text.find(&endpoint[..12]);
    assert!(place(&container.endpoint) < place(&other.endpoint), "{text}");
    drop(flood);
    terminal.shows("the end of the traffic", |text| {
        row(text, &container.endpoint).filter(|cells| cells[2] == "0")
    });
    terminal.press("q");
    assert!(terminal.end().success());
    terminal.assert_restored();
    driver.serve();
    container.stop();
    other.stop();
    driver.finish();
}

fn sorted_filtered_paused_and_explained() {
    let driver = Driver::start();
    let nics = [Nic::new(), Nic::new(), Nic::new()];
    let networks = nics.each_ref().map(|nic| simulated::create_network(&driver, nic));
    let containers = [0, 1, 2].map(|n| Container::create(&driver, &nics[n], &networks[n]));
    let mut ids = containers.each_ref().map(|container| container.endpoint[..12].to_owned());
    ids.sort();
    let mut terminal = top(&driver, &[], WIDE);
    let order = |text: &str| -> Vec<String> {
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        names.filter(|name| ids.contains(&(*name).to_owned())).map(str::to_owned).collect()
    };
    // By name: two to the left of the bits that are received.
    terminal.press("<<");
    terminal.shows("A to Z", |text| (order(text) == ids).then_some(()));
    terminal.press("r");
    let reversed: Vec<String> = ids.iter().rev().cloned().collect();
    terminal.shows("Z to A", |text| (order(text) == reversed).then_some(()));
    terminal.press("/");
    terminal.press(&nics[1].name);
    let wanted = &containers[1].endpoint[..12];
    terminal.shows("one of three", |text| (order(text) == [wanted] && text.contains("1 of 3")).then_some(()));
    terminal.press("\r");
    terminal.shows("the filter stays", |text| text.contains(&format!("/{}", nics[1].name)).then_some(()));
    terminal.press("/\x1b");
    terminal.shows("all again", |text| (order(text).len() == 3).then_some(()));
    terminal.press("p");
    terminal.shows("that it is paused", |text| text.contains("paused").then_some(()));
    driver.done("DeleteEndpoint", &containers[2].ids());
    terminal.press("+");
    terminal.shows("another interval", |text| text.contains("every 0.5 s").then_some(()));
    assert_eq!(order(&terminal.text()).len(), 3, "paused, and it moves");
    terminal.press("p");
    terminal.shows("two are left", |text| (order(text).len() == 2).then_some(()));
    terminal.press("?");
    terminal.shows("the help", |text| text.contains("sort by the column").then_some(()));
    terminal.press("q");
    terminal.shows("no help", |text| (!text.contains("sort by the column")).then_some(()));
    terminal.press("\x03");
    assert!(terminal.end().success());
    terminal.assert_restored();
    for container in &containers[..2] {
        driver.done("DeleteEndpoint", &container.ids());
    }
    driver.finish();
}

fn any_size_of_window() {
    let (driver, nic) = (Driver::start(), Nic::new());
    let network = simulated::create_network(&driver, &nic);
    let container = Container::create(&driver, &nic, &network);
    let mut terminal = top(&driver, &[], (24, 80));
    let begins = &container.endpoint[..8];
    for (rows, columns, there, gone) in [
        (24, 80, &["SPOOFED", "BYPASS", "HOOK", "tcx/tcx"][..], &[][..]),
        (10, 40, &["RX BIT/S", "TX BIT/S"], &["HOOK"]),
        (4, 20, &["RX BIT/S"], &["TX BIT/S"]),
        (24, 80, &["HOOK"], &[]),
    ] {
        terminal.resize(rows, columns);
        terminal.shows(&format!("{columns}x{rows}"), |text| {
            let all =
                there.iter().all(|word| text.contains(word)) && !gone.iter().any(|word| text.contains(word));
            let shown = text.lines().any(|line| line.starts_with(&begins[..4])) || rows < 4;
            (all && shown).then_some(())
        });
    }
    for (rows, columns) in [(1, 1), (2, 3), (200, 400)] {
        terminal.resize(rows, columns);
        terminal.press("?");
        terminal.press(" ");
    }
    terminal.resize(24, 80);
    terminal.shows("that it lives", |text| text.contains("HOOK").then_some(()));
    terminal.press("q");
    assert!(terminal.end().success());
    terminal.assert_restored();
    driver.done("DeleteEndpoint", &container.ids());
    driver.finish();
}

fn signals_give_the_terminal_back() {
    let driver = Driver::start();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let mut terminal = top(&driver, &[], (24, 80));
        assert!(terminal.parser().screen().alternate_screen());
        terminal.signal(signal);
        assert!(terminal.end().success(), "{signal}");
        terminal.assert_restored();
    }
    driver.finish();
}

fn no_terminal_no_screen() {
    let driver = Driver::start();
    let complaint = command::finish(BINARY, &mut driver.command("top")).unwrap_err();
    assert_names(&complaint, &["exit status: 1", "needs a terminal", "stats --watch"]);
    assert!(!complaint.contains('\x1b'), "{complaint:?}");
    // What is wrong is said before the screen is taken over.
    let mut command = driver.command("top");
    command.arg("nobody");
    let mut terminal = Terminal::run(&command, 24, 80);
    assert_eq!(terminal.end().code(), Some(1));
    eventually("the complaint", || {
        let text = terminal.text();
        if text.contains("nobody: no such container") { Ok(()) } else { Err(text) }
    });
    assert!(!terminal.written().contains('\x1b'), "{:?}", terminal.written());
    let mut terminal = Terminal::of_unknown_size(&driver.command("top"));
    assert_eq!(terminal.end().code(), Some(1));
    terminal.shows("the mend", |text| text.contains("stty rows").then_some(()));
    driver.finish();
}
