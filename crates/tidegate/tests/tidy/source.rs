//! Reading Rust as far as house rules need: where code is, and which of it is for tests.

use std::fs;
use std::path::{Path, PathBuf};

/// A text file of the workspace, with its path from the root (with `/`).
pub struct TextFile {
    pub path: String,
    pub text: String,
}

impl TextFile {
    pub fn new(path: &str, text: &str) -> Self {
        Self { path: path.to_owned(), text: text.to_owned() }
    }

    /// The code alone, outside of tests: comments, literals and test items are blanks, lines stay where they are.
    pub fn shipped_code(&self) -> String {
        without_test_items(&code(&self.text))
    }

    /// `path:line` of the byte at `position`.
    pub fn place(&self, position: usize) -> String {
        format!("{}:{}", self.path, self.text[..position].matches('\n').count() + 1)
    }
}

/// The root of the workspace.
pub fn root() -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    root.canonicalize().expect("the workspace is there")
}

/// All text files of the workspace, sorted; not what is built or belongs to version control.
pub fn text_files() -> Vec<TextFile> {
    let root = root();
    let mut files = Vec::new();
    let mut directories = vec![root.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of the workspace") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_symlink() || name == ".git" || name == "target" {
                continue;
            }
            if path.is_dir() {
                directories.push(path);
            } else if let Ok(text) = fs::read_to_string(&path) {
                let relative = path.strip_prefix(&root).expect("below the root");
                let parts: Vec<_> = relative.iter().map(|part| part.to_string_lossy()).collect();
                files.push(TextFile { path: parts.join("/"), text });
            }
        }
    }
    files.sort_by(|a, b| a.path.cmp(&b.path));
    files
}

/// The Rust sources below `directory` (from the root); tests included or not.
pub fn sources(directory: &str, with_tests: bool) -> Vec<TextFile> {
    let mut files = text_files();
    files.retain(|file| file.path.starts_with(directory) && file.path.ends_with(".rs"));
    if !with_tests {
        let test_modules: Vec<String> = files.iter().flat_map(test_modules).collect();
        files.retain(|file| !test_modules.iter().any(|module| in_module(&file.path, module)));
    }
    files
}

/// Whether `path` is the file of `module` (a path without `.rs`) or below it.
fn in_module(path: &str, module: &str) -> bool {
    path.strip_prefix(module).is_some_and(|rest| rest == ".rs" || rest.starts_with('/'))
}

/// The modules in files of their own that a file declares for tests only: their paths without `.rs`.
pub fn test_modules(file: &TextFile) -> Vec<String> {
    let directory = module_directory(&file.path);
    let code = code(&file.text);
    let items = test_items(&code).into_iter();
    items
        .filter_map(|(start, end)| {
            let item = code[start..end].trim_end();
            let (_, name) = item.strip_suffix(';')?.rsplit_once("mod ")?;
            Some(format!("{directory}/{}", name.trim()))
        })
        .collect()
}

/// Where the child modules of a file are.
fn module_directory(path: &str) -> String {
    let path = path.strip_suffix(".rs").unwrap_or(path);
    let is_root = ["/mod", "/lib", "/main"].iter().find_map(|name| path.strip_suffix(name));
    is_root.unwrap_or(path).to_owned()
}

/// `text` with comments and literals blanked, byte for byte.
pub fn code(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => at + line_length(&bytes[at..]),
            b'/' if bytes[at..].starts_with(b"/*") => at + comment_length(&bytes[at..]),
            b'"' => at + string_length(&bytes[at..]),
            b'r' | b'b' if at == 0 || !is_word(bytes[at - 1]) => match raw_string_length(&bytes[at..]) {
                Some(length) => at + length,
                None => at,
            },
            b'\'' => at + character_length(&bytes[at..]),
            _ => at,
        };
        for byte in &mut code[at..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at = end.max(at + 1);
    }
    String::from_utf8(code).expect("whole literals were blanked")
}

fn line_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len())
}

fn comment_length(bytes: &[u8]) -> usize {
    let (mut at, mut depth) = (0, 0);
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (at, depth) = (at + 2, depth + 1);
        } else if bytes[at..].starts_with(b"*/") {
            (at, depth) = (at + 2, depth - 1);
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn string_length(bytes: &[u8]) -> usize {
    let mut at = 1;
    while at < bytes.len() && bytes[at] != b'"' {
        at += if bytes[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(bytes.len())
}

fn raw_string_length(bytes: &[u8]) -> Option<usize> {
    let rest = bytes.strip_prefix(b"b").unwrap_or(bytes).strip_prefix(b"r")?;
    let hashes = rest.iter().take_while(|&&byte| byte == b'#').count();
    let opening = bytes.len() - rest.len() + hashes;
    if bytes.get(opening) != Some(&b'"') {
        return None;
    }
    let closing = [b"\"", &b"#".repeat(hashes)[..]].concat();
    let inside = &bytes[opening + 1..];
    let length = inside.windows(closing.len()).position(|window| window == closing).unwrap_or(inside.len());
    Some((opening + 1 + length + closing.len()).min(bytes.len()))
}

/// Zero for a lifetime.
fn character_length(bytes: &[u8]) -> usize {
    if bytes.get(1) == Some(&b'\\') {
        let end = bytes[2..].iter().skip(1).position(|&byte| byte == b'\'');
        return end.map_or(bytes.len(), |end| end + 4);
    }
    // One character of up to four bytes between quotes.
    let end = bytes.iter().take(6).skip(2).position(|&byte| byte == b'\'');
    match end {
        Some(0) => 3,
        Some(end) if bytes[1] >= 0x80 => end + 3,
        _ => 0,
    }
}

pub fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

/// `code` with every item blanked that exists in tests only.
fn without_test_items(code: &str) -> String {
    let mut bytes = code.as_bytes().to_vec();
    for (start, end) in test_items(code) {
        for byte in &mut bytes[start..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
    }
    String::from_utf8(bytes).expect("whole items were blanked")
}

/// Where the items are that exist in tests only, their attributes included.
pub fn test_items(code: &str) -> Vec<(usize, usize)> {
    let mut items = Vec::new();
    for attribute in ["#[cfg(test)]", "#[cfg(all(test,"] {
        for (start, _) in code.match_indices(attribute) {
            let after = start + code[start..].find(']').map_or(attribute.len(), |end| end + 1);
            items.push((start, after + item_length(&code.as_bytes()[after..])));
        }
    }
    items
}

/// Up to the `;` or `,` that ends an item, or the brace that closes its body.
fn item_length(bytes: &[u8]) -> usize {
    let mut depth = 0;
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => {
                depth -= 1;
                if depth < 0 {
                    return at;
                }
                if depth == 0 && *byte == b'}' {
                    return at + 1;
                }
            }
            b';' | b',' if depth == 0 => return at + 1,
            _ => {}
        }
    }
    bytes.len()
}

/// Where `pattern` stands in `text` as words of its own: no letter, digit or underscore before or after it.
pub fn words(text: &str, pattern: &str) -> Vec<usize> {
    let bytes = text.as_bytes();
    let first_is_word = pattern.as_bytes().first().is_some_and(|&byte| is_word(byte));
    let last_is_word = pattern.as_bytes().last().is_some_and(|&byte| is_word(byte));
    let positions = text.match_indices(pattern).map(|(position, _)| position);
    positions
        .filter(|&position| {
            let end = position + pattern.len();
            let begins = !first_is_word || position == 0 || !is_word(bytes[position - 1]);
            let ends = !last_is_word || end == bytes.len() || !is_word(bytes[end]);
            begins && ends
        })
        .collect()
}
