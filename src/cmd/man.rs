//! `wtfs man`: manual pages, made of what `--help` says.
//!
//! A page a command, as packages install them. What follows the flags in the help keeps its lines: examples and tables
//! would become one paragraph each. Lines of prose are filled, since one may be longer than a terminal is wide.

use std::fs;
use std::io;
use std::path::Path;

use clap::{Command, CommandFactory as _};
use clap_mangen::Man;
use clap_mangen::roff::{Inline, Roff, roman};

use super::print_text;
use crate::cli::{self, Cli};
use crate::exit::{Exit, OrEnd as _, ended};

pub(super) fn run(args: &cli::Man) -> anyhow::Result<Exit> {
    if let Some(dir) = &args.output {
        write_all(dir)
            .or_end(Exit::Failure, || format!("the pages cannot be written to {}", dir.display()))?;
        return Ok(Exit::Success);
    }
    let program = program();
    let wanted = match args.command.as_deref() {
        None => &program,
        Some(name) => shown(&program).find(|command| command.get_name() == name).ok_or_else(|| {
            ended(Exit::Usage, format!("there is no command {name:?}; `wtfs --help` lists them"))
        })?,
    };
    print_text(&page(wanted)?)?;
    Ok(Exit::Success)
}

/// The command line with everything in it that is worked out when words are parsed.
fn program() -> Command {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    program
}

fn shown(program: &Command) -> impl Iterator<Item = &Command> {
    program.get_subcommands().filter(|command| !command.is_hide_set())
}

fn write_all(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir)?;
    let program = program();
    for command in std::iter::once(&program).chain(shown(&program)) {
        fs::write(dir.join(format!("{}.1", name(command))), page(command)?)?;
    }
    Ok(())
}

/// `wtfs-mount` of the command `mount`.
fn name(command: &Command) -> &str {
    command.get_display_name().unwrap_or_else(|| command.get_name())
}

/// The page in the language of roff.
fn page(command: &Command) -> io::Result<String> {
    let man = Man::new(command.clone()).source(concat!("wtfs ", env!("CARGO_PKG_VERSION")));
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    if let Some(notes) = command.get_after_long_help().or(command.get_after_help()) {
        by_lines("NOTES", &notes.to_string()).to_writer(&mut page)?;
    }
    String::from_utf8(page).map_err(io::Error::other)
}

/// A section whose lines stay lines. Those that are indented are examples and tables and are kept to the letter; the
/// others are prose, and each is filled to the width of the page.
fn by_lines(title: &str, text: &str) -> Roff {
    let mut section = Roff::new();
    section.control("SH", [title]);
    for line in text.lines() {
        let words: Vec<Inline> = vec![roman(line)];
        if line.starts_with(' ') {
            section.control("nf", []).text(words).control("fi", []);
        } else if line.is_empty() {
            section.control("sp", []);
        } else {
            section.text(words).control("br", []);
        }
    }
    section
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_of_each_command_names_it_and_all_its_flags_and_keeps_its_examples() {
        let program = program();
        for command in shown(&program) {
            let page = page(command).expect("written");
            assert!(page.contains(&format!(".TH {} 1", name(command))), "{page}");
            // A hyphen that may be searched for and copied is written so.
            for flag in
                command.get_arguments().filter(|arg| !arg.is_hide_set()).filter_map(|arg| arg.get_long())
            {
                let flag = format!("\\-\\-{}", flag.replace('-', "\\-"));
                assert!(page.contains(&flag), "{}: {flag} is missing", name(command));
            }
            assert!(page.contains(&format!("wtfs {}", command.get_name())), "{page}");
        }
        let own = page(&program).expect("written");
        assert!(own.contains("\n  3  the torrent, magnet link or URL cannot be used\n"), "{own}");
        assert!(own.contains("wtfs\\-mount(1)"), "{own}");
    }

    #[test]
    fn prose_is_filled_and_what_is_indented_is_kept() {
        let page = by_lines("NOTES", "Some prose.\nMore of it.\n\nExamples:\n  wtfs x  y").to_roff();
        let kept = page.find(".nf\n  wtfs x  y\n.fi").expect("kept to the letter");
        let filled = &page[..kept];
        assert!(filled.contains("Some prose.\n.br\nMore of it.\n.br\n.sp\nExamples:\n.br\n"), "{page}");
        assert!(!filled.contains(".nf"), "{page}");
    }

    #[test]
    fn all_pages_are_written_and_none_of_what_is_hidden() {
        let dir = tempfile::tempdir().expect("a directory");
        let man1 = dir.path().join("man/man1");
        write_all(&man1).expect("written");
        let mut names: Vec<_> =
            fs::read_dir(&man1).expect("there").map(|entry| entry.expect("an entry").file_name()).collect();
        names.sort();
        assert!(names.contains(&"wtfs.1".into()) && names.contains(&"wtfs-get.1".into()), "{names:?}");
        assert!(!names.contains(&"wtfs-read-back.1".into()), "{names:?}");
    }
}
