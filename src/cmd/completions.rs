//! `wtfs completions`: a script that teaches a shell the commands and flags.

use clap::CommandFactory as _;

use super::print_text;
use crate::cli::{Cli, Completions};
use crate::exit::Exit;

pub(super) fn run(args: &Completions) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "wtfs", &mut script);
    print_text(&String::from_utf8(script)?)?;
    Ok(Exit::Success)
}
