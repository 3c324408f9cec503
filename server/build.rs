//! Takes the built page for browsers into the program: writes a table of the files in `web/dist/page`, empty where the
//! page was not built.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

fn main() -> io::Result<()> {
    let manifest_dir = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").ok_or(io::ErrorKind::NotFound)?);
    let out_dir = PathBuf::from(env::var_os("OUT_DIR").ok_or(io::ErrorKind::NotFound)?);
    // The directory itself is always there, with nothing in it that is the page's.
    let dist = manifest_dir.join("../web/dist");
    println!("cargo::rerun-if-changed={}", dist.display());
    println!("cargo::rerun-if-changed=build.rs");
    let page = dist.join("page");
    let mut files = Vec::new();
    if page.join("index.html").is_file() {
        list(&page, &page, &mut files)?;
        files.sort();
    }
    let mut table = String::from("&[\n");
    for (at, (name, path)) in files.into_iter().enumerate() {
        // A copy: a page that is built again meanwhile has other names, and this table must not lead to nothing.
        let copy = out_dir.join(format!("page-{at}"));
        fs::copy(path, &copy)?;
        writeln!(table, "    ({name:?}, include_bytes!({copy:?})),").map_err(io::Error::other)?;
    }
    table.push_str("]\n");
    fs::write(out_dir.join("browser_page.rs"), table)
}

/// All files below a directory: their names relative to `root` with slashes, and where they are.
fn list(dir: &Path, root: &Path, into: &mut Vec<(String, PathBuf)>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            list(&path, root, into)?;
        } else if let Ok(name) = path.strip_prefix(root) {
            into.push((name.to_string_lossy().replace('\\', "/"), path));
        }
    }
    Ok(())
}
