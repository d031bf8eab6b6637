//! Debian's kernels, unpacked and not installed. apt works on lists and a cache of its own, so that the machine's stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::cargo;

/// A kernel and its modules.
pub struct Tree {
    pub image: PathBuf,
    /// `lib/modules/RELEASE`.
    pub modules: PathBuf,
    pub release: String,
}

/// The newest kernel for virtual machines of a suite. What was fetched before is taken as it is.
pub fn fetch(suite: &str) -> Result<Tree> {
    let directory = cargo::target().join("vm").join(suite);
    let root = directory.join("root");
    if !root.join("complete").exists() {
        println!("fetching the kernel of {suite}");
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(&root)?;
        unpack(suite, &directory, &root).with_context(|| format!("the kernel of {suite}"))?;
        fs::write(root.join("complete"), "")?;
    }
    find(&root).with_context(|| format!("no kernel in {}; remove it to fetch it again", root.display()))
}

fn unpack(suite: &str, directory: &Path, root: &Path) -> Result<()> {
    let apt = Apt::new(suite, directory)?;
    apt.run("apt-get", &["update", "--quiet=2"])?;
    let depends = apt.run("apt-cache", &["depends", "linux-image-cloud-amd64"])?;
    let package = depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|name| name.starts_with("linux-image"))
        .context("linux-image-cloud-amd64 depends on no kernel")?
        .to_owned();
    let version = package.trim_start_matches("linux-image-");
    // Newer kernels come in two packages.
    let split = [format!("linux-binary-{version}"), format!("linux-modules-{version}")];
    let packages =
        if apt.run("apt-cache", &["show", &split[0]]).is_ok() { split.to_vec() } else { vec![package] };
    let mut arguments = vec!["download", "--quiet=2"];
    arguments.extend(packages.iter().map(String::as_str));
    apt.run("apt-get", &arguments)?;
    for entry in fs::read_dir(&apt.downloads)? {
        let path = entry?.path();
        run(Command::new("dpkg").arg("-x").arg(&path).arg(root))?;
    }
    Ok(())
}

struct Apt {
    configuration: PathBuf,
    downloads: PathBuf,
}

impl Apt {
    fn new(suite: &str, directory: &Path) -> Result<Self> {
        let mirror = mirror()?;
        let state = directory.join("apt");
        let downloads = directory.join("packages");
        for part in [
            "lists/partial",
            "cache/archives/partial",
            "etc/apt.conf.d",
            "etc/preferences.d",
            "etc/sources.list.d",
        ] {
            fs::create_dir_all(state.join(part))?;
        }
        fs::create_dir_all(&downloads)?;
        fs::write(state.join("status"), "")?;
        let key = "[signed-by=/usr/share/keyrings/debian-archive-keyring.gpg]";
        let mut sources = format!("deb {key} {mirror} {suite} main\n");
        if !suite.ends_with("-backports") {
            sources += &format!("deb {key} {mirror}-security {suite}-security main\n");
        }
        fs::write(state.join("etc/sources.list"), sources)?;
        let at = state.display();
        let configuration = state.join("apt.conf");
        fs::write(
            &configuration,
            format!(
                "Dir::Etc \"{at}/etc\";\nDir::Etc::sourcelist \"{at}/etc/sources.list\";\n\
                 Dir::Etc::sourceparts \"{at}/etc/sources.list.d\";\nDir::State::lists \"{at}/lists\";\n\
                 Dir::State::status \"{at}/status\";\nDir::Cache \"{at}/cache\";\nAPT::Architecture \"amd64\";\n\
                 Acquire::Languages \"none\";\nAPT::Sandbox::User \"root\";\n"
            ),
        )?;
        Ok(Self { configuration, downloads })
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        run(Command::new(program)
            .args(arguments)
            .current_dir(&self.downloads)
            .env("APT_CONFIG", &self.configuration)
            .env("LC_ALL", "C"))
    }
}

/// Where this machine gets Debian from.
fn mirror() -> Result<String> {
    let mut files = vec![PathBuf::from("/etc/apt/sources.list")];
    let parts = fs::read_dir("/etc/apt/sources.list.d").into_iter().flatten().flatten();
    files.extend(parts.map(|entry| entry.path()));
    let texts = files.iter().filter_map(|file| fs::read_to_string(file).ok());
    let words: Vec<String> =
        texts.flat_map(|text| text.split_whitespace().map(str::to_owned).collect::<Vec<_>>()).collect();
    let is_debian = |word: &&String| {
        let word = word.trim_end_matches('/');
        word.starts_with("http") && word.ends_with("/debian")
    };
    match words.iter().find(is_debian) {
        Some(word) => Ok(word.trim_end_matches('/').to_owned()),
        None => bail!("apt of this machine knows no Debian mirror; add one to /etc/apt/sources.list.d"),
    }
}

fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} failed ({}): {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn find(root: &Path) -> Option<Tree> {
    // Merged /usr or not.
    let places = [root.to_owned(), root.join("usr")];
    let modules = places.iter().find_map(|place| first(&place.join("lib/modules"), ""))?;
    let release = modules.file_name()?.to_string_lossy().into_owned();
    let image = first(&root.join("boot"), "vmlinuz")
        .or_else(|| Some(modules.join("vmlinuz")).filter(|path| path.exists()))
        .or_else(|| first(&root.join("usr/lib/linux"), "vmlinuz"))?;
    Some(Tree { image, modules, release })
}

fn first(directory: &Path, prefix: &str) -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = fs::read_dir(directory)
        .ok()?
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(prefix)))
        .collect();
    found.sort();
    found.pop()
}
