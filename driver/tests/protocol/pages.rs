//! Man pages and completions, as `cargo xtask dist` makes them.
use std::{fs, process::Command};

use crate::support::{
    command,
    driver::{BINARY, entries},
    trials,
};

trials![man_pages_have_nothing_to_warn_of, completions_are_read_by_their_shells];

fn made() -> tempfile::TempDir {
    let folder = tempfile::tempdir_in("/run").unwrap();
    command::run(BINARY, &["generate", &folder.path().display().to_string()]);
    folder
}

fn man_pages_have_nothing_to_warn_of() {
    let folder = made();
    let man = folder.path().join("man");
    let pages = entries(&man);
    let commands = ["", "-doctor", "-import", "-ls", "-serve", "-stats", "-top"];
    let mut wanted = commands.map(|command| format!("docker-passthrough{command}.8"));
    wanted.sort();
    assert_eq!(pages, wanted);
    for page in pages {
        let mut groff = Command::new("groff");
        let output =
            groff.args(["-man", "-Tutf8", "-ww", "-P-c"]).arg(man.join(&page)).output().expect("groff");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success() && output.stderr.is_empty(), "{page}: {output:?}");
        assert!(text.contains("Examples:"), "{page}: {text}");
    }
}

fn completions_are_read_by_their_shells() {
    let folder = made();
    for (shell, file) in [
        ("bash", "docker-passthrough.bash"),
        ("zsh", "_docker-passthrough"),
        ("fish", "docker-passthrough.fish"),
    ] {
        let path = folder.path().join("completions").join(shell).join(file);
        let text = fs::read_to_string(&path).unwrap();
        for word in ["doctor", "netdevice", "watch"] {
            assert!(text.contains(word), "{shell}: no {word}");
        }
        assert!(!text.contains("generate"), "{shell} offers what is hidden");
    }
    let script = folder.path().join("completions/bash/docker-passthrough.bash");
    command::run("bash", &["-n", &script.display().to_string()]);
    // The words are completed as a user sees it.
    let ask = format!(
        ". {}; COMP_WORDS=(docker-passthrough st); COMP_CWORD=1; \
         f=$(complete -p docker-passthrough | grep -o '[^ ]*__passthrough'); \
         $f docker-passthrough st docker-passthrough; echo ${{COMPREPLY[@]}}",
        script.display()
    );
    assert_eq!(command::run("bash", &["-c", &ask]), "stats");
}
