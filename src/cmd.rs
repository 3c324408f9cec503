//! The commands, one a file: each builds its configuration, starts the work, waits for it, and says how it ended.

mod add;
mod completions;
mod create;
mod demo;
mod doctor;
mod get;
mod info;
mod man;
mod mount;
mod pin;
mod prefetch;
mod remove;
mod seed;
mod serve;
mod status;
mod unmount;
mod verify;

use crate::cli::{Command, Verbosity};
use crate::config::Loaded;
use crate::exit::{Exit, OrEnd as _};
use crate::progress::Show;
use crate::roster::Keep;

/// How this process was started.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// By the user.
    Foreground,
    /// By `--daemon`, to stay behind.
    Background,
}

pub(crate) fn run(
    command: Command,
    loaded: Loaded,
    verbosity: Verbosity,
    place: Place,
) -> anyhow::Result<Exit> {
    let show = if verbosity.quiet { Show::Never } else { Show::OnTerminal };
    match command {
        Command::Mount(args) => mount::run(&args, loaded, place, show),
        Command::Add(args) => add::run(&args, loaded),
        Command::Remove(args) => remove::run(&args, loaded),
        Command::Pin(args) => pin::run(&args, Keep::Pinned, loaded),
        Command::Unpin(args) => pin::run(&args, Keep::Unpinned, loaded),
        Command::Prefetch(args) => prefetch::run(&args, loaded, show),
        Command::Unmount(args) => unmount::run(&args),
        Command::Status(args) => status::run(&args, loaded),
        Command::Get(args) => get::run(&args, loaded, show),
        Command::Seed(args) => seed::run(&args, loaded, show),
        Command::Serve(args) => serve::run(&args, loaded),
        Command::Create(args) => create::run(&args, show),
        Command::Info(args) => info::run(&args),
        Command::Verify(args) => verify::run(&args, show),
        Command::Demo(args) => demo::run(&args, show),
        Command::Doctor(args) => doctor::run(&args, loaded),
        Command::ReadBack(args) => demo::read_back(&args),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
    }
}

/// Prints a value as indented JSON, the machine's form of a result.
fn print_json(value: &impl serde::Serialize) -> anyhow::Result<()> {
    print_text(&(serde_json::to_string_pretty(value)? + "\n"))
}

/// Prints to standard output; a reader that has gone (`| head`) is no error.
fn print_text(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    match std::io::stdout().lock().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            Err(error).or_end(Exit::Failure, || "standard output cannot be written to".into())
        }
        _ => Ok(()),
    }
}
