//! `cargo xtask package`: a Debian package. The eBPF object is inside of `sgd`, so a host needs no toolchain.

mod control;
mod stage;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Args;

use crate::{cargo, setup};
use stage::Stage;

#[derive(Debug, Args)]
pub struct Package {
    /// Package the debug build: large and slow, and soon there
    #[arg(long)]
    debug: bool,
    /// Another version than the workspace's
    #[arg(long, value_name = "VERSION", default_value = env!("CARGO_PKG_VERSION"))]
    version: String,
    /// Where the package goes [default: package/ in cargo's target directory]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

impl Package {
    pub fn run(&self) -> Result<()> {
        setup::install_packager()?;
        let binaries = build(self.debug)?;
        let out = self.out.clone().unwrap_or_else(|| cargo::target().join("package"));
        let package = make(&binaries, &self.version, &out, Pack::Small)?;
        let bytes = fs::metadata(&package)?.len();
        println!("{} ({:.1} MB)", package.display(), bytes as f64 / 1e6);
        Ok(())
    }
}

/// Builds `sgd` and `sgctl`; where they are.
pub fn build(debug: bool) -> Result<PathBuf> {
    let mut arguments = vec!["build", "--package", "sg-daemon", "--bin", "sgd", "--bin", "sgctl"];
    if !debug {
        arguments.push("--release");
    }
    cargo::run(&arguments)?;
    Ok(cargo::target().join(if debug { "debug" } else { "release" }))
}

/// How hard dpkg-deb works.
#[derive(Debug, Clone, Copy)]
pub enum Pack {
    Small,
    /// For a test.
    Fast,
}

/// Packages what was built; the package's path.
pub fn make(binaries: &Path, version: &str, out: &Path, how: Pack) -> Result<PathBuf> {
    fs::create_dir_all(out).with_context(|| format!("cannot make {}", out.display()))?;
    let scratch = tempfile::tempdir()?;
    let stage = Stage::fill(&scratch.path().join("stage"), binaries)?;
    let architecture = said(Command::new("dpkg").arg("--print-architecture"))?;
    control::write(&stage, version, &architecture)?;
    let package = out.join(format!("sgd_{version}_{architecture}.deb"));
    let mut pack = Command::new("dpkg-deb");
    if matches!(how, Pack::Fast) {
        pack.args(["-Zgzip", "-z1"]);
    }
    pack.args(["--root-owner-group", "--build"]).arg(stage.root()).arg(&package);
    said(&mut pack)?;
    Ok(package)
}

/// What a command prints; fails with its complaints.
pub fn said(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}").replace('"', "");
    let output = command.output().with_context(|| format!("cannot run `{shown}`"))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "`{shown}` failed ({}): {}", output.status, complaints.trim());
    Ok(String::from_utf8(output.stdout)?.trim_end().to_owned())
}
