//! House rules that no lint can enforce. Each rule is a test, and each has a test that shows that it catches what it is for.

mod layers;
mod source;

use std::fmt::Write;

use source::{TextFile, code, sources, test_items, test_modules, text_files, words};

/// The most lines of a source file. Files are rooms: one subject each, read from top to bottom, rarely over 500 lines.
const LINES_MAX: usize = 1000;

/// Where tests may sleep, and why: nowhere else, a test waits for what it waits for, with a deadline.
const SLEEPERS: [(&str, &str); 1] =
    [("crates/tidegate/src/engine/conformance/real_time.rs", "it tests that a call blocks until another thread acts")];

/// The commands that the README promises to somebody with a fresh machine.
const README_COMMANDS: [&str; 2] =
    ["cargo run --release -- serve echo", "cargo test --workspace --exclude tidegate-bench"];

/// Reports violations, if there are any, each as `file:line: what`, with what to do.
#[track_caller]
fn report(rule: &str, violations: &[String]) {
    let mut text = String::new();
    for violation in violations {
        let _ = write!(text, "\n  {violation}");
    }
    assert!(violations.is_empty(), "{rule}{text}");
}

/// `file:line: pattern` for each of `patterns` in the code of a file that is not for tests.
fn found_in_code(file: &TextFile, patterns: &[&str]) -> Vec<String> {
    found(file, &file.shipped_code(), patterns)
}

fn found(file: &TextFile, text: &str, patterns: &[&str]) -> Vec<String> {
    let positions = patterns.iter().flat_map(|pattern| words(text, pattern).into_iter().map(move |at| (at, pattern)));
    positions.map(|(position, pattern)| format!("{}: {pattern}", file.place(position))).collect()
}

#[test]
fn imports_point_down_only() {
    let files = sources("crates/tidegate/src/", false);
    let names = layers::exported_names(&files);
    let violations: Vec<String> = files.iter().flat_map(|file| layers::upward_imports(file, &names)).collect();
    report(
        "A module imports from modules below it only; move what both need down, or hand it in as a parameter:",
        &violations,
    );
}

fn clocks(file: &TextFile) -> Vec<String> {
    const PATTERNS: [&str; 9] = [
        "Instant::now",
        "SystemTime",
        "thread::sleep",
        "rand",
        "getrandom",
        "fastrand",
        "HashMap",
        "HashSet",
        "RandomState",
    ];
    const ROOMS: [&str; 6] = ["memory", "filter", "connection", "io_thread", "surface", "engine/sim"];
    let below = file.path.strip_prefix("crates/tidegate/src/").unwrap_or(&file.path);
    let deterministic = ROOMS.iter().any(|room| below.strip_prefix(room).is_some_and(|rest| rest.starts_with('/')));
    if deterministic { found_in_code(file, &PATTERNS) } else { Vec::new() }
}

#[test]
fn there_is_no_clock_and_no_chance_above_the_engine() {
    let violations: Vec<String> = sources("crates/tidegate/src/", false).iter().flat_map(clocks).collect();
    report(
        "Above the engine, and in the simulated one, a run must replay from its seed; take time and randomness from the engine, \
         and use a BTreeMap or an index for a hash table:",
        &violations,
    );
}

const UNBOUNDED: [&str; 6] =
    ["mpsc::channel", "unbounded", "unbounded_channel", "SegQueue", "async_channel", "crossbeam_channel"];

#[test]
fn no_channel_is_unbounded() {
    let files = ["crates/tidegate/src/", "crates/tidegate-cli/src/"].map(|directory| sources(directory, false));
    let violations: Vec<String> = files.iter().flatten().flat_map(|file| found_in_code(file, &UNBOUNDED)).collect();
    report(
        "Nothing that a peer or a caller can push is unbounded; use a queue with a size (sync_channel, ArrayQueue):",
        &violations,
    );
}

fn unsafe_places(file: &TextFile) -> Vec<String> {
    let rooms = ["crates/tidegate/src/engine/", "crates/tidegate/src/memory/"];
    let allowed = rooms.iter().any(|room| file.path.starts_with(room));
    if allowed { Vec::new() } else { found_in_code(file, &["unsafe"]) }
}

#[test]
fn unsafe_is_in_engine_and_memory_only() {
    let files = ["crates/tidegate/src/", "crates/tidegate-cli/src/"].map(|directory| sources(directory, false));
    let violations: Vec<String> = files.iter().flatten().flat_map(unsafe_places).collect();
    report(
        "Only engine/ and memory/ of the library have `unsafe`; build a safe function there and call it:",
        &violations,
    );
}

/// Markers of what was left for later, put together from halves so that they aren't found here.
fn markers() -> [String; 4] {
    [["TO", "DO"], ["FIX", "ME"], ["XX", "X"], ["HA", "CK"]].map(|halves| halves.concat())
}

fn leftovers(file: &TextFile) -> Vec<String> {
    let markers = markers();
    let mut violations = found(file, &file.text, &markers.each_ref().map(String::as_str));
    if file.path.ends_with(".rs") {
        violations.extend(found(file, &code(&file.text), &["dbg!", "#[ignore"]));
    }
    violations
}

#[test]
fn nothing_is_left_for_later() {
    let violations: Vec<String> = text_files().iter().flat_map(leftovers).collect();
    report("Do it now, or write down in docs/ that and why it is not done:", &violations);
}

/// The index that a lock file may name, put together from halves so that it isn't found here.
fn package_index() -> String {
    ["registry+https://github.com/rust-lang/crates", "io-index"].join(".")
}

/// What speaks of the place where the product is made: package registries and checkouts.
fn foreign_places(file: &TextFile) -> Vec<String> {
    let hosts = [["crates", "io"], ["docs", "rs"], ["pypi", "org"], ["npmjs", "com"], ["proxy.golang", "org"]];
    let directories = ["work", "root", "home", "Users", "workspace"];
    // Every lock file names the index that its packages come from.
    let text = match file.path.ends_with("Cargo.lock") {
        true => file.text.replace(&package_index(), &"-".repeat(package_index().len())),
        false => file.text.clone(),
    };
    let mut violations = Vec::new();
    for host in hosts.map(|parts| parts.join(".")) {
        violations.extend(found(file, &text, &[&host]));
    }
    for directory in directories {
        let pattern = format!("/{directory}/");
        let absolute = |&position: &usize| {
            let before = text[..position].chars().next_back();
            before.is_none_or(|before| before.is_whitespace() || "\"'`(=:<[".contains(before))
        };
        let positions = words(&text, &pattern).into_iter().filter(absolute);
        violations.extend(positions.map(|position| format!("{}: {pattern}", file.place(position))));
    }
    violations
}

#[test]
fn the_repository_speaks_of_the_product_alone() {
    let violations: Vec<String> = text_files().iter().flat_map(foreign_places).collect();
    report(
        "No hosts of package registries and no paths of one machine; name packages, and paths from the root:",
        &violations,
    );
}

fn too_long(file: &TextFile) -> Option<String> {
    let lines = file.text.lines().count();
    (lines > LINES_MAX).then(|| format!("{}:{lines}: the most is {LINES_MAX}", file.path))
}

#[test]
fn no_source_file_is_too_long() {
    let violations: Vec<String> = sources("", true).iter().filter_map(too_long).collect();
    report("A file is a room: find the second subject in it and give it a room of its own:", &violations);
}

/// Sleeps in the tests of one file; `is_test`: all of it is tests.
fn sleeps(file: &TextFile, is_test: bool) -> Vec<String> {
    let code = code(&file.text);
    let items = test_items(&code);
    let in_test = |position: usize| is_test || items.iter().any(|&(start, end)| (start..end).contains(&position));
    let mut positions = words(&code, "thread::sleep");
    positions.retain(|&position| in_test(position));
    positions.into_iter().map(|position| format!("{}: thread::sleep", file.place(position))).collect()
}

#[test]
fn tests_wait_for_events_and_not_for_time() {
    let files = sources("", true);
    let modules: Vec<String> = files.iter().flat_map(test_modules).collect();
    let mut violations = Vec::new();
    for file in &files {
        let is_test = file.path.contains("/tests/")
            || modules
                .iter()
                .any(|module| file.path.starts_with(&format!("{module}/")) || file.path == format!("{module}.rs"));
        let sleeps = sleeps(file, is_test);
        match SLEEPERS.iter().find(|(path, _)| *path == file.path) {
            Some(_) if sleeps.is_empty() => {
                violations.push(format!("{}: no longer sleeps: take it off the list", file.path))
            }
            Some(_) => {}
            None => violations.extend(sleeps),
        }
    }
    report("A sleep is too long or too short; wait for the event, with a deadline:", &violations);
}

/// Tests that a page names as `conformance::<name>` and that `suite` has no function for.
fn missing_tests(page: &TextFile, suite: &str) -> Vec<String> {
    let mut violations = Vec::new();
    for (position, prefix) in page.text.match_indices("`conformance::") {
        let name =
            page.text[position + prefix.len()..].split(|letter: char| !letter.is_alphanumeric() && letter != '_');
        let name = name.into_iter().next().unwrap_or_default();
        if words(suite, &format!("fn {name}")).is_empty() {
            violations.push(format!("{}: conformance::{name}", page.place(position)));
        }
    }
    violations
}

#[test]
fn every_test_named_by_the_page_on_the_engine_exists() {
    let suite = sources("crates/tidegate/src/engine/conformance/", true);
    let suite: String = suite.iter().map(|file| code(&file.text)).collect();
    let pages: Vec<TextFile> = text_files().into_iter().filter(|file| file.path == "docs/engine.md").collect();
    let violations: Vec<String> = pages.iter().flat_map(|page| missing_tests(page, &suite)).collect();
    report("The page says which test holds which sentence; write the test, or correct the page:", &violations);
}

/// The `cargo` commands in the fenced blocks of a page.
fn cargo_commands(page: &str) -> Vec<&str> {
    let blocks = page.split("\n```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1));
    let commands = lines.map(|line| line.trim().trim_start_matches("$ "));
    commands.filter(|command| command.starts_with("cargo ")).collect()
}

#[test]
fn the_readme_has_the_two_commands_for_a_fresh_machine() {
    let Some(readme) = text_files().into_iter().find(|file| file.path == "README.md") else { return };
    assert_eq!(
        cargo_commands(&readme.text),
        README_COMMANDS,
        "README.md: the cargo commands in its fenced blocks are those that .ci/run tries, and no others"
    );
}

#[test]
fn the_ci_runs_the_test_command_of_the_readme() {
    let ci = text_files().into_iter().find(|file| file.path == ".ci/run").expect(".ci/run is there");
    assert!(ci.text.contains(README_COMMANDS[1]), ".ci/run doesn't have `{}`", README_COMMANDS[1]);
}

/// The rules catch what they are for.
mod self_test {
    use super::*;

    fn library(path: &str, text: &str) -> TextFile {
        TextFile::new(&format!("crates/tidegate/src/{path}"), text)
    }

    #[test]
    fn code_is_told_from_comments_literals_and_lifetimes() {
        let text = "a // b\n/* c /* d */ */ e \"f \\\" g\" h r#\"i \" j\"# k 'l' m '\\'' n &'o p 'ü' q b\"r\" rs";
        let code = code(text);
        assert_eq!(code.len(), text.len());
        assert_eq!(
            code.split_whitespace().collect::<Vec<_>>(),
            ["a", "e", "h", "k", "m", "n", "&'o", "p", "q", "b", "rs"]
        );
    }

    #[test]
    fn test_items_are_told_from_what_ships() {
        let text = "fn a() {}\n#[cfg(test)]\nmod b {\n fn c() {}\n}\nfn d() {}\n#[cfg(all(test, not(loom)))]\nmod e;\nfn f() {}";
        let file = library("memory/mod.rs", text);
        let left: String = file.shipped_code().split_whitespace().collect();
        assert_eq!(left, "fna(){}fnd(){}fnf(){}");
        assert_eq!(test_modules(&file), ["crates/tidegate/src/memory/e"]);
    }

    #[test]
    fn an_upward_import_is_caught() {
        let lib = library("lib.rs", "pub use connection::{Refusal, Sent};\npub use surface::*;\npub use time::Time;");
        let names = layers::exported_names(&[lib]);
        let imports = |path: &str, text: &str| layers::upward_imports(&library(path, text), &names);
        assert_eq!(imports("memory/a.rs", "use crate::time::Time;\nuse crate::{Time, sync};"), [""; 0]);
        assert_eq!(imports("memory/a.rs", "\nuse crate::engine::Engine;").len(), 1);
        assert!(
            imports("memory/a.rs", "\nuse crate::engine::Engine;")[0].starts_with("crates/tidegate/src/memory/a.rs:2")
        );
        assert_eq!(imports("engine/a/b.rs", "fn f() { crate::connection::g() }").len(), 1);
        assert_eq!(imports("engine/a/b.rs", "use super::super::super::surface::Limits;").len(), 1);
        assert_eq!(imports("engine/a/b.rs", "use super::super::surface::Limits;"), [""; 0]);
        assert_eq!(imports("connection/a.rs", "use crate::engine::CloseMode;"), [""; 0]);
        assert_eq!(imports("connection/a.rs", "use crate::engine::{CloseMode, Engine};").len(), 1);
        assert_eq!(imports("io_thread/a.rs", "use crate::{Sent, Limits};").len(), 1, "what lib.rs passes on counts");
        assert_eq!(imports("time.rs", "use crate::sync::Arc;").len(), 1, "neither below the other");
        assert_eq!(imports("memory/a.rs", "//! See [`Limits`](crate::Limits)."), [""; 0]);
        assert_eq!(imports("memory/a.rs", "#[cfg(test)]\nmod tests {\n    use crate::surface::Limits;\n}"), [""; 0]);
        assert_eq!(imports("novelty.rs", "").len(), 1, "a new module needs a layer");
    }

    #[test]
    fn a_clock_is_caught() {
        assert_eq!(clocks(&library("connection/a.rs", "let a = std::time::Instant::now();")).len(), 1);
        assert_eq!(clocks(&library("engine/sim/a.rs", "use std::collections::{BTreeMap, HashMap};")).len(), 1);
        assert_eq!(clocks(&library("engine/uring/a.rs", "Instant::now()")), [""; 0]);
        assert_eq!(
            clocks(&library("surface/a.rs", "#[cfg(test)]\nmod tests { use std::collections::HashMap; }")),
            [""; 0]
        );
        assert_eq!(clocks(&library("surface/a.rs", "// no HashMap here\nlet random = \"rand\";")), [""; 0]);
    }

    #[test]
    fn an_unbounded_channel_is_caught() {
        assert_eq!(found_in_code(&library("a.rs", "let (a, b) = std::sync::mpsc::channel();"), &UNBOUNDED).len(), 1);
        assert_eq!(found_in_code(&library("a.rs", "let (a, b) = mpsc::sync_channel(1);"), &UNBOUNDED), [""; 0]);
    }

    #[test]
    fn an_unsafe_block_is_caught() {
        let text = "#![forbid(unsafe_code)]\n// unsafe is allowed in engine/\nunsafe { f() }";
        assert_eq!(unsafe_places(&library("surface/a.rs", text)), ["crates/tidegate/src/surface/a.rs:3: unsafe"]);
        assert_eq!(unsafe_places(&library("engine/a.rs", text)), [""; 0]);
    }

    #[test]
    fn a_marker_is_caught() {
        for marker in markers() {
            assert_eq!(leftovers(&TextFile::new("docs/a.md", &format!("Later.\n{marker}: more"))).len(), 1, "{marker}");
        }
        let text = format!("fn f() {{ {}!(1) }}\n#[{}]\nfn g() {{}}", "dbg", "ignore");
        assert_eq!(leftovers(&library("a.rs", &text)).len(), 2);
    }

    #[test]
    fn a_foreign_place_is_caught() {
        let page = |text: &str| foreign_places(&TextFile::new("docs/a.md", text));
        assert_eq!(page(&format!("see https://{}.{}/", "crates", "io")).len(), 1);
        assert_eq!(page(&format!("in `/{}/x`", "home")).len(), 1);
        assert_eq!(page("in target/work/x and http://127.0.0.1/home/x"), [""; 0]);
        let lock = TextFile::new("Cargo.lock", &format!("source = \"{}\"", package_index()));
        assert_eq!(foreign_places(&lock), [""; 0]);
    }

    #[test]
    fn a_long_file_is_caught() {
        assert_eq!(too_long(&library("a.rs", &"\n".repeat(LINES_MAX))), None);
        assert!(too_long(&library("a.rs", &"\n".repeat(LINES_MAX + 1))).is_some());
    }

    #[test]
    fn a_sleep_in_a_test_is_caught() {
        let text = "fn a() { thread::sleep(b) }\n#[cfg(test)]\nmod tests {\n fn c() { thread::sleep(d) }\n}";
        assert_eq!(sleeps(&library("a.rs", text), false), ["crates/tidegate/src/a.rs:4: thread::sleep"]);
        assert_eq!(sleeps(&library("a.rs", text), true).len(), 2);
    }

    #[test]
    fn a_missing_test_is_caught() {
        let page = TextFile::new("docs/engine.md", "| E1 | `conformance::one`, `conformance::two` |");
        assert_eq!(missing_tests(&page, "fn one() {}"), ["docs/engine.md:1: conformance::two"]);
        assert_eq!(missing_tests(&page, "fn one() {} fn two() {} fn three() {}"), [""; 0]);
    }

    #[test]
    fn the_commands_of_a_page_are_those_in_its_fences() {
        let page = "# A\n\n```sh\n$ cargo run\nnc localhost 7\n```\n\nor cargo build\n\n```rust\nfn main() {}\n```\n```\ncargo test\n```\n";
        assert_eq!(cargo_commands(page), ["cargo run", "cargo test"]);
    }
}
