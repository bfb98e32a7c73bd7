//! Finds which file of a crate imports which: follows every path in the code to the file that defines the named item.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// The files of a crate by their paths below `src`, without their unit tests.
#[derive(Default)]
pub(crate) struct Tree {
    files: BTreeMap<String, File>,
    /// The file of each module by the module's path.
    modules: BTreeMap<Vec<String>, String>,
}

/// The modules that one file declares and the paths it names.
struct File {
    module: Vec<String>,
    children: BTreeSet<String>,
    /// Re-exports: paths by the name that `pub use` gives them. `*` is a glob re-export.
    offered: Vec<(String, Vec<String>)>,
    /// The paths the file names in its code and in `use` lines, except for names it only re-exports.
    named: Vec<Vec<String>>,
}

/// The file that a path leads to.
#[derive(Debug, PartialEq, Eq)]
struct Target {
    file: String,
    /// Whether the path goes through a re-export instead of naming the defining module.
    detour: bool,
}

impl Tree {
    pub(crate) fn of<'f>(files: impl IntoIterator<Item = (&'f str, &'f str)>) -> Self {
        let mut tree = Self::default();
        for (path, code) in files {
            let file = File::parse(path, code);
            tree.modules.insert(file.module.clone(), path.to_owned());
            tree.files.insert(path.to_owned(), file);
        }
        tree
    }

    /// Returns the files that each file imports from.
    pub(crate) fn imports(&self) -> BTreeMap<&str, BTreeSet<String>> {
        let targets = |path: &str, file: &File| {
            let found = file.named.iter().filter_map(|named| self.follow(&file.module, named));
            found.map(|target| target.file).filter(|target| target != path).collect()
        };
        self.files.iter().map(|(path, file)| (path.as_str(), targets(path, file))).collect()
    }

    /// Returns the paths that do not name the defining module, as `file: path (defined in other file)`.
    pub(crate) fn detours(&self) -> Vec<String> {
        let mut detours = Vec::new();
        for (path, file) in &self.files {
            for named in &file.named {
                if let Some(Target { file: defined, detour: true }) = self.follow(&file.module, named) {
                    detours.push(format!("{path}: {} (defined in {defined})", named.join("::")));
                }
            }
        }
        detours
    }

    /// Returns a shortest cycle of each group of files that import each other, as a path that ends where it begins.
    pub(crate) fn cycles(&self) -> Vec<Vec<String>> {
        let imports = self.imports();
        groups(&imports).into_iter().map(|group| shortest_cycle(&imports, &group)).collect()
    }

    /// Returns the file that defines the item `path` names, seen from `module`, or `None` if another crate defines it.
    fn follow(&self, module: &[String], path: &[String]) -> Option<Target> {
        let (mut at, mut rest) = (module.to_vec(), path);
        match path.first()?.as_str() {
            "crate" => (at, rest) = (Vec::new(), &path[1..]),
            "self" | "super" => {
                while let Some((first @ ("self" | "super"), after)) = rest.split_first().map(|(f, a)| (f.as_str(), a)) {
                    if first == "super" {
                        at.pop();
                    }
                    rest = after;
                }
            }
            // A path into a child module, or into another crate.
            child if !self.file(&at)?.children.contains(child) => return None,
            _ => {}
        }
        self.descend(at, rest, 0)
    }

    fn descend(&self, mut at: Vec<String>, path: &[String], detours: usize) -> Option<Target> {
        for (place, name) in path.iter().enumerate() {
            let file = self.file(&at)?;
            if file.children.contains(name) {
                at.push(name.clone());
                continue;
            }
            // The limit stops re-exports that form a cycle.
            let offered = file.offered.iter().find(|(offered, _)| offered == name && detours < 8);
            if let Some((_, origin)) = offered
                && let Some(origin) = self.follow(&at, origin)
            {
                let module = self.files[&origin.file].module.clone();
                let below = self.descend(module, &path[place + 1..], detours + 1);
                let file = below.map_or(origin.file, |target| target.file);
                return Some(Target { file, detour: true });
            }
            break;
        }
        Some(Target { file: self.modules.get(&at)?.clone(), detour: false })
    }

    fn file(&self, module: &[String]) -> Option<&File> {
        self.files.get(self.modules.get(module)?)
    }
}

impl File {
    fn parse(path: &str, code: &str) -> Self {
        let code = without_text(code);
        let (uses, code) = split_uses(&code);
        let (mut offered, mut named) = (Vec::new(), Vec::new());
        for (public, tree) in uses {
            for (name, path) in expand(&tree) {
                // A name that a file only re-exports is not an import.
                if !public || find_name(&code, &name) {
                    named.push(path.clone());
                }
                if public {
                    offered.push((name, path));
                }
            }
        }
        let children = declared_modules(&code);
        named.extend(paths_in(&code, &children));
        Self { module: module_of(path), children, offered, named }
    }
}

fn module_of(path: &str) -> Vec<String> {
    let path = path.trim_end_matches(".rs");
    let path = path.trim_end_matches("/mod");
    if path == "lib" { Vec::new() } else { path.split('/').map(str::to_owned).collect() }
}

/// Returns the code with comments, strings and character literals blanked.
pub(crate) fn without_text(code: &str) -> String {
    let mut kept = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            rest.find("*/").map_or(rest.len(), |end| end + 2)
        } else if rest.starts_with("r#\"") {
            rest.find("\"#").map_or(rest.len(), |end| end + 2)
        } else if first == '"' {
            quoted(rest, '"')
        } else if rest.starts_with("'\\") || rest.chars().nth(2) == Some('\'') && first == '\'' {
            quoted(rest, '\'')
        } else {
            0
        };
        kept.push(if skipped == 0 { first } else { ' ' });
        rest = &rest[skipped.max(first.len_utf8())..];
    }
    kept
}

/// Returns the length of a literal including both quotes.
fn quoted(literal: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in literal.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            _ if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    literal.len()
}

/// Returns the `use` declarations, each with whether it is public in any way, and the code without them.
fn split_uses(code: &str) -> (Vec<(bool, String)>, String) {
    let (mut uses, mut other) = (Vec::new(), String::new());
    let mut rest = code;
    while let Some(at) = find_word(rest, "use") {
        let before = &rest[..at];
        let end = rest[at..].find(';').map_or(rest.len(), |end| at + end);
        let line = before.rsplit(['\n', ';', '}']).next().unwrap_or_default();
        uses.push((line.trim_start().starts_with("pub"), rest[at + 3..end].to_owned()));
        other.push_str(before);
        rest = &rest[end..];
    }
    other.push_str(rest);
    (uses, other)
}

fn find_word(code: &str, word: &str) -> Option<usize> {
    let is_part = |c: char| c.is_alphanumeric() || c == '_';
    code.match_indices(word).map(|(at, _)| at).find(|at| {
        let (before, after) = (&code[..*at], &code[at + word.len()..]);
        !before.ends_with(is_part) && after.starts_with(char::is_whitespace)
    })
}

fn find_name(code: &str, name: &str) -> bool {
    code.split(|c: char| !(c.is_alphanumeric() || c == '_')).any(|word| word == name)
}

/// Returns each path of a use tree with the name it gets.
fn expand(tree: &str) -> Vec<(String, Vec<String>)> {
    let tree = tree.trim();
    if let Some((prefix, list)) = tree.split_once('{') {
        let prefix: Vec<String> = segments(prefix);
        let list = list.rsplit_once('}').map_or(list, |(list, _)| list);
        return split_list(list).flat_map(expand).map(|(name, path)| under(&prefix, name, path)).collect();
    }
    let (path, alias) = tree.split_once(" as ").map_or((tree, None), |(path, alias)| (path, Some(alias.trim())));
    let mut path = segments(path);
    if path.last().is_some_and(|last| last == "*") {
        path.pop();
        return vec![("*".to_owned(), path)];
    }
    let Some(last) = path.last() else { return Vec::new() };
    vec![(alias.unwrap_or(last).to_owned(), path)]
}

fn under(prefix: &[String], name: String, path: Vec<String>) -> (String, Vec<String>) {
    // `a::{self}` names `a`.
    if path == ["self"] {
        return (prefix.last().cloned().unwrap_or_default(), prefix.to_vec());
    }
    (name, prefix.iter().cloned().chain(path).collect())
}

fn segments(path: &str) -> Vec<String> {
    path.split("::").map(str::trim).filter(|segment| !segment.is_empty()).map(str::to_owned).collect()
}

fn split_list(list: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    list.split(move |c| {
        depth = match c {
            '{' => depth + 1,
            '}' => depth.saturating_sub(1),
            _ => depth,
        };
        c == ',' && depth == 0
    })
    .filter(|part| !part.trim().is_empty())
}

fn declared_modules(code: &str) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    let mut rest = code;
    while let Some(at) = find_word(rest, "mod") {
        rest = &rest[at + 3..];
        if let Some((name, _)) = rest.split_once(';')
            && name.trim().chars().all(|c| c.is_alphanumeric() || c == '_')
        {
            modules.insert(name.trim().to_owned());
        }
    }
    modules
}

/// Returns the paths in the code that begin with `crate`, `super`, `self` or a module declared there.
fn paths_in(code: &str, children: &BTreeSet<String>) -> Vec<Vec<String>> {
    let code = code.replace(|c: char| !(c.is_alphanumeric() || "_:$.".contains(c)), " ");
    let paths = code.split_whitespace().filter(|path| path.contains("::") && !path.contains(['$', '.']));
    let paths = paths.map(segments).filter(|path| path.len() > 1);
    paths.filter(|path| ["crate", "super", "self"].contains(&&*path[0]) || children.contains(&path[0])).collect()
}

/// Returns the groups of files that reach each other, by Tarjan's algorithm.
fn groups(imports: &BTreeMap<&str, BTreeSet<String>>) -> Vec<BTreeSet<String>> {
    let mut search =
        Search { imports, found: BTreeMap::new(), low: BTreeMap::new(), stack: Vec::new(), groups: Vec::new() };
    for file in imports.keys() {
        if !search.found.contains_key(*file) {
            search.visit(file);
        }
    }
    search.groups.into_iter().filter(|group| group.len() > 1).collect()
}

struct Search<'i> {
    imports: &'i BTreeMap<&'i str, BTreeSet<String>>,
    found: BTreeMap<String, usize>,
    low: BTreeMap<String, usize>,
    stack: Vec<String>,
    groups: Vec<BTreeSet<String>>,
}

impl Search<'_> {
    fn visit(&mut self, file: &str) -> usize {
        let number = self.found.len();
        self.found.insert(file.to_owned(), number);
        self.stack.push(file.to_owned());
        let mut low = number;
        for next in &self.imports[file] {
            low = match self.found.get(next) {
                None => low.min(self.visit(next)),
                Some(other) if self.stack.contains(next) => low.min(*other),
                Some(_) => low,
            };
        }
        self.low.insert(file.to_owned(), low);
        if low == number {
            let from = self.stack.iter().position(|other| other == file).unwrap_or(0);
            self.groups.push(self.stack.split_off(from).into_iter().collect());
        }
        low
    }
}

fn shortest_cycle(imports: &BTreeMap<&str, BTreeSet<String>>, group: &BTreeSet<String>) -> Vec<String> {
    let cycles = group.iter().filter_map(|start| {
        let mut paths = VecDeque::from([vec![start.clone()]]);
        let mut seen = BTreeSet::new();
        while let Some(path) = paths.pop_front() {
            for next in imports[path.last()?.as_str()].iter().filter(|next| group.contains(*next)) {
                let longer: Vec<String> = path.iter().chain([next]).cloned().collect();
                if next == start {
                    return Some(longer);
                }
                if seen.insert(next) {
                    paths.push_back(longer);
                }
            }
        }
        None
    });
    cycles.min_by_key(Vec::len).unwrap_or_default()
}
