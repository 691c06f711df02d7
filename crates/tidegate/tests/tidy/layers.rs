//! Which module of the library may import which.

use std::collections::BTreeMap;

use crate::source::{TextFile, is_word};

/// The layers from the bottom up. Modules of one layer don't know each other.
const LAYERS: [&[&str]; 8] = [
    &["time", "sync", "random", "network"],
    &["memory"],
    &["engine"],
    &["filter"],
    &["connection"],
    &["io_thread"],
    &["surface"],
    &["guide"],
];

const SOURCES: &str = "crates/tidegate/src/";

/// What a layer may take of one below it although it should not know it: all that `connection` needs of the engine is the
/// word for how a socket is closed.
const ONLY: (&str, &str, &str) = ("connection", "engine", "CloseMode");

fn rank(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// For each name that `lib.rs` passes on, the module it comes from. What it passes on by `*` is of the surface.
pub fn exported_names(files: &[TextFile]) -> BTreeMap<String, String> {
    let lib = files.iter().find(|file| file.path == format!("{SOURCES}lib.rs")).expect("lib.rs is there");
    let code = lib.shipped_code();
    let mut names = BTreeMap::new();
    for (position, found) in code.match_indices("pub use ") {
        let path = &code[position + found.len()..];
        let module = leading_word(path);
        let after = path[module.len()..].trim_start_matches("::");
        for (name, _) in tree(after) {
            names.insert(name, module.to_owned());
        }
    }
    names
}

/// The imports of a file that don't point down.
pub fn upward_imports(file: &TextFile, names: &BTreeMap<String, String>) -> Vec<String> {
    let Some(below) = file.path.strip_prefix(SOURCES).and_then(|path| path.strip_suffix(".rs")) else {
        return Vec::new();
    };
    if below == "lib" {
        return Vec::new();
    }
    let modules: Vec<&str> = below.strip_suffix("/mod").unwrap_or(below).split('/').collect();
    let own = modules[0];
    let Some(own_rank) = rank(own) else {
        return vec![format!("{}:1: `{own}` has no layer: add it to the list of layers", file.path)];
    };

    let code = file.shipped_code();
    let mut violations = Vec::new();
    for (position, path) in paths_from_root(&code, modules.len()) {
        for (name, below) in tree(path) {
            let target = if rank(&name).is_some() { &name } else { names.get(&name).map_or("surface", String::as_str) };
            let down = target == own || rank(target).is_some_and(|target| target < own_rank);
            let (user, used, only) = ONLY;
            let allowed = (own, target) != (user, used) || tree(below).iter().all(|(name, _)| name == only);
            if !down || !allowed {
                violations.push(format!("{}: `{own}` imports from `{target}` ({name})", file.place(position)));
            }
        }
    }
    violations
}

/// Paths that begin at the root of the crate, by `crate::` or by as many `super::` as the module is deep, without that
/// beginning.
fn paths_from_root(code: &str, depth: usize) -> Vec<(usize, &str)> {
    let mut paths = Vec::new();
    for beginning in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (position, found) in code.match_indices(&beginning) {
            let before = &code[..position];
            let goes_on = before.ends_with("::") || before.bytes().next_back().is_some_and(is_word);
            if !goes_on {
                paths.push((position, &code[position + found.len()..]));
            }
        }
    }
    paths
}

/// The first names of a path or of the group that it opens with, each with what follows its `::`.
fn tree(path: &str) -> Vec<(String, &str)> {
    let path = path.trim_start();
    let Some(group) = path.strip_prefix('{') else {
        let name = leading_word(path);
        let after = path[name.len()..].strip_prefix("::").unwrap_or("");
        return if name.is_empty() { Vec::new() } else { vec![(name.to_owned(), after)] };
    };
    let (mut depth, mut start, mut entries) = (0, 0, Vec::new());
    for (at, byte) in group.bytes().enumerate() {
        match byte {
            b'{' => depth += 1,
            b'}' if depth > 0 => depth -= 1,
            b',' | b'}' if depth == 0 => {
                entries.extend(tree(&group[start..at]));
                start = at + 1;
                if byte == b'}' {
                    break;
                }
            }
            _ => {}
        }
    }
    entries
}

fn leading_word(text: &str) -> &str {
    &text[..text.bytes().position(|byte| !is_word(byte)).unwrap_or(text.len())]
}
