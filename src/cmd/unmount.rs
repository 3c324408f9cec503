//! `wtfs unmount`: takes a mount away, that of a process that is gone too.

use wtfs_mount::Unmounted;

use crate::cli::Unmount;
use crate::exit::{Exit, ended};

pub(super) fn run(args: &Unmount) -> anyhow::Result<Exit> {
    let dir = args.dir.display();
    let outcome =
        wtfs_mount::unmount_path(&args.dir).map_err(|error| ended(Exit::Mount, error.to_string()))?;
    if outcome == Unmounted::Lazily {
        eprintln!("wtfs: {dir} is in use: its name is free now, the rest goes when the last program lets go");
    }
    Ok(Exit::Success)
}
