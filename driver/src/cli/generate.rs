//! `generate DIR`: man pages and shell completions, out of the command line itself. For `cargo xtask dist`
//! alone: no page and no completion shall offer it.
use std::{ffi::OsString, fs, path::Path};

use anyhow::Context as _;
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;

use super::Cli;

/// The folder, if that is what is asked.
pub fn is_asked(arguments: &[OsString]) -> Option<&Path> {
    match arguments {
        [_, word, folder] if word == "generate" => Some(Path::new(folder)),
        _ => None,
    }
}

/// Man pages in `folder`/man and shell completions in `folder`/completions.
pub fn generate(folder: &Path) -> anyhow::Result<()> {
    let mut command = Cli::command();
    command.build();
    pages(&command, &folder.join("man"))?;
    completions(&mut command, &folder.join("completions"))
}

/// A page for the program, and one for each command.
fn pages(command: &Command, folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| folder.display().to_string())?;
    let version = concat!("docker-passthrough ", env!("CARGO_PKG_VERSION"));
    let commands = command.get_subcommands().filter(|one| !one.is_hide_set() && one.get_name() != "help");
    for one in std::iter::once(command).chain(commands) {
        let name = one.get_display_name().unwrap_or(one.get_name()).to_owned();
        let page =
            clap_mangen::Man::new(one.clone()).section("8").manual("docker-passthrough").source(version);
        let mut text = Vec::new();
        page.render(&mut text).context("a man page")?;
        let path = folder.join(format!("{name}.8"));
        fs::write(&path, text).with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// A file a shell, under the name that the shell looks for.
fn completions(command: &mut Command, folder: &Path) -> anyhow::Result<()> {
    for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
        let folder = folder.join(shell.to_string());
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        clap_complete::generate_to(shell, command, "docker-passthrough", &folder)
            .with_context(|| folder.display().to_string())?;
    }
    Ok(())
}
