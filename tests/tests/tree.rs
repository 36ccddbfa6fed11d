//! Promises about the tree itself: what it depends on, where `unsafe` is, and that its documents speak of what is there.
//!
//! Reads the checkout and asks cargo, without the network; writes nothing.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

/// The only sources in which `unsafe` may stand, in any form. A directory ends with `/`.
const UNSAFE: [&str; 6] = [
    "shmbc/src/sys.rs",
    "shmbc/src/sys/",
    "shmbc-tokio/src/bell.rs",
    "shmbc-tokio/src/socket/raw.rs",
    "shmbc-host/src/kernel.rs",
    "tests/src/raw.rs",
];

/// Made by building and running, not part of the tree.
const NOT_OURS: [&str; 5] = [".git", "target", "results", "__pycache__", ".shmbc"];

/// What people read first.
const DOCUMENTS: &[&str] = &[
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "benches/README.md",
    "docs/migration.md",
    "docs/which-crate.md",
    "docs/faq.md",
    "docs/huge-pages.md",
    "docs/commands.md",
    "docs/configuration.md",
    "docs/containers.md",
    "docs/deploy.md",
    "docs/install.md",
    "docs/metrics.md",
    "docs/policy.md",
    "docs/systemd.md",
    "docs/numa.md",
    "examples/README.md",
    "compat/tokio/README.md",
    "examples/compose/README.md",
    "examples/three-services/README.md",
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the package is in the workspace").to_owned()
}

/// Every text file of the tree: its path from the root, and what it says.
fn texts() -> Vec<(String, String)> {
    fn walk(dir: &Path, root: &Path, texts: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(dir).expect("the tree is readable").map(|entry| entry.expect("an entry")) {
            let (path, kind) = (entry.path(), entry.file_type().expect("its kind"));
            if NOT_OURS.iter().any(|name| entry.file_name() == *name) {
                continue;
            }
            if kind.is_dir() {
                walk(&path, root, texts);
            } else if kind.is_file()
                && let Ok(text) = fs::read_to_string(&path)
            {
                let name = path.strip_prefix(root).expect("below the root").to_str().expect("a plain name");
                texts.push((name.to_owned(), text));
            }
        }
    }
    let mut texts = Vec::new();
    walk(&root(), &root(), &mut texts);
    assert!(texts.len() > 100, "only {} files found below {}", texts.len(), root().display());
    texts
}

fn cargo(args: &[&str]) -> String {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let output = Command::new(cargo).args(args).current_dir(root()).output().expect("run cargo");
    assert!(output.status.success(), "cargo {}: {}", args.join(" "), String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("cargo speaks UTF-8")
}

fn text<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}"))
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().unwrap_or_else(|| panic!("no {key} in {value}"))
}

/// The packages that are built here, as cargo resolves them.
struct Packages {
    by_id: HashMap<String, Value>,
    /// Packages by id: those they depend on, and whether only for their own tests.
    depends: HashMap<String, Vec<(String, bool)>>,
    members: BTreeSet<String>,
}

impl Packages {
    fn of_this_machine() -> Self {
        let version = cargo(&["-vV"]);
        let host = version.lines().find_map(|line| line.strip_prefix("host: ")).expect("cargo knows its host");
        // Only what this machine builds: the rest need not have been downloaded.
        let args = ["metadata", "--offline", "--locked", "--format-version", "1", "--filter-platform", host];
        let metadata: Value = serde_json::from_str(&cargo(&args)).expect("JSON");
        let by_id = list(&metadata, "packages").iter().map(|p| (text(p, "id").to_owned(), p.clone())).collect();
        let depends = list(&metadata["resolve"], "nodes").iter().map(|node| {
            let on = list(node, "deps").iter().map(|dep| {
                let only_tests = list(dep, "dep_kinds").iter().all(|kind| kind["kind"] == "dev");
                (text(dep, "pkg").to_owned(), only_tests)
            });
            (text(node, "id").to_owned(), on.collect())
        });
        let members = list(&metadata, "workspace_members").iter().filter_map(Value::as_str);
        Self { by_id, depends: depends.collect(), members: members.map(str::to_owned).collect() }
    }

    fn name(&self, id: &str) -> &str {
        text(&self.by_id[id], "name")
    }

    fn member(&self, name: &str) -> &str {
        self.members.iter().find(|id| self.name(id) == name).unwrap_or_else(|| panic!("no package {name}"))
    }

    /// Names of everything that `name` is built of.
    fn tree(&self, name: &str) -> BTreeSet<&str> {
        self.reach(self.member(name), false).into_iter().map(|id| self.name(id)).collect()
    }

    /// Everything that a package is built of, or it and its own tests.
    fn reach<'a>(&'a self, member: &'a str, tests: bool) -> BTreeSet<&'a str> {
        let mut seen = BTreeSet::new();
        let mut todo = vec![member];
        while let Some(id) = todo.pop() {
            if seen.insert(id) {
                let on = self.depends[id].iter().filter(|(_, only_tests)| tests && id == member || !only_tests);
                todo.extend(on.map(|(on, _)| on.as_str()));
            }
        }
        seen
    }

    /// Whether some package of the workspace has a target `name` of this kind.
    fn has_target(&self, kind: &str, name: &str) -> bool {
        self.members
            .iter()
            .flat_map(|id| list(&self.by_id[id], "targets"))
            .any(|target| target["name"] == name && list(target, "kind").iter().any(|k| k == kind))
    }
}

fn version(text: &str) -> Vec<u32> {
    let mut numbers: Vec<_> = text.split('.').map(|n| n.parse().expect("a version of Rust")).collect();
    numbers.resize(3, 0);
    numbers
}

#[test]
fn msrv_when_stated_is_enough_for_every_dependency() {
    let packages = Packages::of_this_machine();
    let stated = text(&packages.by_id[packages.member("shmbc")], "rust_version");
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    assert!(readme.contains(&format!("Rust {stated}")), "README.md does not say Rust {stated}");
    for member in &packages.members {
        let stated = text(&packages.by_id[member], "rust_version");
        for id in packages.reach(member, true) {
            if let Some(needs) = packages.by_id[id]["rust_version"].as_str() {
                assert!(version(needs) <= version(stated), "{id} needs Rust {needs}, and {member} says {stated}");
            }
        }
    }
}

/// Names of everything that `package` is built of by itself, which may be less than what the workspace builds it of.
fn built_of(package: &str, features: &[&str]) -> BTreeSet<String> {
    let args = ["tree", "--offline", "--locked", "--package", package, "--edges=normal,build", "--prefix=none"];
    let tree = cargo(&[&args, features].concat());
    tree.lines().filter_map(|line| line.split_whitespace().next()).map(str::to_owned).collect()
}

#[test]
fn libraries_when_built_pull_in_neither_docker_nor_http() {
    let heavy = ["bollard", "hyper", "hyper-util", "axum", "http", "tower", "reqwest"];
    for library in ["shmbc", "shmbc-tokio"] {
        let tree = built_of(library, &["--all-features"]);
        let found: Vec<_> = heavy.iter().filter(|name| tree.contains(**name)).collect();
        assert!(found.is_empty(), "{library} is built of {found:?}");
        assert!(!tree.contains("shmbc-host"), "{library} is built of the host service");
    }
    // The core knows no runtime either, unless asked for one. And that cargo says what is there:
    let core = built_of("shmbc", &[]);
    assert!(["tokio", "mio", "async-io"].iter().all(|runtime| !core.contains(*runtime)));
    assert!(built_of("shmbc", &["--features=mio"]).contains("mio"));
    assert!(core.contains("rustix"));
    let packages = Packages::of_this_machine();
    assert!(packages.tree("shmbc-host").contains("bollard"));
    let service = packages.tree("shmbc-host");
    assert!(!service.contains("shmbc-tokio") && !service.contains("axum"), "the service is built of its clients");
    let tool = packages.tree("shmbc-cli");
    assert!(!tool.contains("shmbc-host") && !tool.contains("bollard"), "the tool is built of the service");
}

/// A source without its line comments.
fn without_comments(source: &str) -> impl Iterator<Item = (usize, &str)> {
    let code = source.lines().map(|line| match line.find("//") {
        Some(at) if !line[..at].ends_with(':') => &line[..at],
        _ => line,
    });
    code.enumerate().map(|(index, line)| (index + 1, line))
}

#[test]
fn unsafe_when_it_stands_anywhere_stands_in_the_named_files() {
    let word = concat!("un", "safe");
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    for (name, source) in texts().iter().filter(|(name, _)| name.ends_with(".rs")) {
        if UNSAFE.iter().any(|allowed| name == allowed || allowed.ends_with('/') && name.starts_with(allowed)) {
            continue;
        }
        for (number, code) in without_comments(source) {
            let permits = code.contains(&format!("{word}_code"));
            let uses = code.split(|c| !is_word(c)).any(|token| token == word);
            assert!(!permits && !uses, "{name}:{number}: {}", code.trim());
        }
    }
    for name in UNSAFE {
        assert!(root().join(name).exists(), "{name} is named and not there");
    }
}

#[test]
fn packages_when_built_keep_to_the_lints_of_the_workspace() {
    for (name, manifest) in texts().iter().filter(|(name, _)| name.ends_with("/Cargo.toml")) {
        // The root of a workspace of its own has no code.
        let none = !manifest.contains("[package]");
        assert!(
            none || manifest.contains("[lints]\nworkspace = true"),
            "{name} does not say `[lints] workspace = true`"
        );
    }
}

#[test]
fn files_when_read_name_no_machine_and_no_registry() {
    // In pieces, so that this file does not name them.
    let machine = [concat!("/", "work/"), concat!("/", "root/"), concat!("/", "farm/")];
    let registries =
        [concat!("crates", ".io"), concat!("pypi", ".org"), concat!("npmjs", ".org"), concat!("deb.", "debian")];
    for (name, content) in texts().iter().filter(|(name, _)| !name.ends_with("Cargo.lock")) {
        for (index, line) in content.lines().enumerate() {
            let path = machine.iter().any(|path| {
                line.match_indices(path).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || matches!(c, '_' | '.' | '-' | '}' | '*'))
                })
            });
            let host = registries.iter().any(|host| line.contains(host));
            assert!(!path && !host, "{name}:{}: {line}", index + 1);
        }
    }
}

/// The commands of a document: lines of its fenced `sh` blocks, and those indented by four.
fn commands(document: &str) -> Vec<&str> {
    let mut fenced = false;
    let mut found = Vec::new();
    for line in document.lines() {
        if line.starts_with("```") {
            fenced = line == "```sh";
        } else if fenced || line.starts_with("    ") {
            found.push(line.split(" #").next().unwrap_or(line).trim());
        }
    }
    found.retain(|line| !line.is_empty());
    found
}

#[test]
fn readme_when_followed_names_commands_that_exist() {
    let packages = Packages::of_this_machine();
    let readme = fs::read_to_string(root().join("README.md")).expect("README.md");
    for promised in ["cargo run --release --example quickstart", "cargo test --workspace", "examples/compose/run"] {
        assert!(commands(&readme).contains(&promised), "README.md does not have the command `{promised}`");
    }
    for document in DOCUMENTS {
        let content = fs::read_to_string(root().join(document)).unwrap_or_else(|e| panic!("{document}: {e}"));
        for command in commands(&content) {
            let words: Vec<_> = command.split_whitespace().collect();
            let programs = [".ci/", "compat/", "examples/", "scripts/"];
            for program in words.iter().filter(|word| programs.iter().any(|dir| word.starts_with(dir))) {
                let mode = fs::metadata(root().join(program)).map(|m| m.permissions().mode());
                assert!(mode.is_ok_and(|mode| mode & 0o111 != 0), "{document}: no program {program}");
            }
            if !words.contains(&"cargo") {
                continue;
            }
            for pair in words.windows(2) {
                let there = match pair[0] {
                    "-p" | "--package" => packages.members.iter().any(|id| packages.name(id) == pair[1]),
                    "--example" => packages.has_target("example", pair[1]),
                    "--test" => packages.has_target("test", pair[1]),
                    "--bin" => packages.has_target("bin", pair[1]),
                    _ => true,
                };
                assert!(there, "{document}: `{command}`: there is no {} {}", pair[0], pair[1]);
            }
        }
    }
}

#[test]
fn documents_when_they_name_a_file_name_one_that_exists() {
    for document in DOCUMENTS {
        let path = root().join(document);
        let content = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{document}: {e}"));
        let beside = path.parent().expect("a file has a directory");
        let links = content.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let file = link.split('#').next().unwrap_or(link);
            assert!(beside.join(file).exists(), "{document}: the link to {link} leads nowhere");
        }
        // `code` that is a path of a source from the root.
        for name in content.split('`').skip(1).step_by(2) {
            let plain = name.contains('/') && !name.contains([' ', '*', '{', '<', '$']) && !name.starts_with('/');
            if plain && [".rs", ".toml", ".md", ".yml"].iter().any(|end| name.ends_with(end)) {
                assert!(root().join(name).exists() || beside.join(name).exists(), "{document}: there is no {name}");
            }
        }
    }
}

#[test]
fn table_of_methods_when_tokio_moves_is_made_anew() {
    let packages = Packages::of_this_machine();
    let tokio = packages.by_id.values().find(|package| package["name"] == "tokio").expect("tokio");
    let table = fs::read_to_string(root().join("docs/tokio-api.md")).expect("the table");
    let wanted = format!("the TCP types of tokio {} ", text(tokio, "version"));
    assert!(table.contains(&wanted), "the table is of another tokio: run scripts/public-api update");
    assert!(table.contains("none missing"));
    for method in ["try_io", "async_io", "poll_peek", "set_zero_linger", "from_std_stream", "reunite", "forget"] {
        assert!(table.contains(&format!("| `{method}(")), "{method} is not in the table");
    }
}
