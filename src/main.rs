//! The `wtfs` command: parses what was typed, resolves the configuration, starts logging, runs one command, and turns
//! its outcome into an exit code. All policy of the command stands in `cmd/`; all work is done by the crates below.

#![forbid(unsafe_code)]

mod cli;
mod cmd;
mod config;
mod control;
mod daemon;
mod demo;
mod engine;
mod exit;
mod logging;
mod metrics;
mod mount_helper;
mod notify;
mod place;
mod progress;
mod reporter;
mod repositories;
mod roster;
mod signals;
mod table;
mod units;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser as _;

use crate::cli::{Cli, Command};
use crate::cmd::Place;
use crate::config::{Environment, Loaded};
use crate::exit::Exit;
use crate::mount_helper::Asked;

fn main() -> ExitCode {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    if words.first().is_some_and(|program| mount_helper::is_helper(program)) {
        match mount_helper::translate(words.drain(1..)) {
            Ok(Asked::Run(line)) => words = line,
            Ok(Asked::Nothing) => return Exit::Success.into(),
            Err(error) => {
                eprintln!("mount.fuse.wtfs: {error}");
                return Exit::Usage.into();
            }
        }
    }
    let mut cli = Cli::parse_from(&words);
    if let Command::Mount(mount) = &mut cli.command {
        mount.typed = words.split_off(1);
    }
    let place = if cli.report_to_parent { Place::Background } else { Place::Foreground };
    match run(cli, place) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("wtfs: {}", exit::sentence_of(&error));
            let exit = exit::exit_of(&error);
            if place == Place::Background {
                daemon::report_failure(exit, &error);
            }
            exit.into()
        }
    }
}

fn run(cli: Cli, place: Place) -> anyhow::Result<Exit> {
    if place == Place::Background {
        daemon::detach()?;
    }
    let loaded = Loaded::read(&Environment::read(), cli.config.as_deref())?;
    logging::init(&cli.verbosity, place, loaded.log.as_deref())?;
    cmd::run(cli.command, loaded, cli.verbosity, place)
}
