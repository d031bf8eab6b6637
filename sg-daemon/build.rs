//! Compiles the kernel side and tells the daemon where the object is, so that the binaries carry it inside.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use sha2::{Digest as _, Sha256};

fn main() -> ExitCode {
    let (Some(manifest), Some(out)) = (std::env::var_os("CARGO_MANIFEST_DIR"), std::env::var_os("OUT_DIR"))
    else {
        eprintln!("error: run by cargo only");
        return ExitCode::FAILURE;
    };
    let workspace = PathBuf::from(manifest).join("..");
    for input in ["sg-ebpf", "sg-common", "Cargo.toml", "Cargo.lock", ".cargo/config.toml"] {
        println!("cargo::rerun-if-changed={}", workspace.join(input).display());
    }
    facts(&workspace);
    let built = sg_ebpf_build::build(&workspace, &PathBuf::from(out).join("bpf"))
        .map_err(|error| error.to_string())
        .and_then(|object| Ok((std::fs::read(&object).map_err(|error| error.to_string())?, object)));
    match built {
        Ok((bytes, object)) => {
            println!("cargo::rustc-env=SGD_BPF_OBJECT={}", object.display());
            // A start finds programs of the very same object by this: half of it is enough to tell objects apart.
            let hash: String =
                Sha256::digest(&bytes).iter().take(16).map(|byte| format!("{byte:02x}")).collect();
            println!("cargo::rustc-env=SGD_BPF_OBJECT_HASH={hash}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// What `sgd --version` tells.
fn facts(workspace: &Path) {
    let of_cargo = |name: &str| std::env::var(name).unwrap_or_else(|_| "unknown".to_owned());
    let rustc = said(Command::new(of_cargo("RUSTC")).arg("--version"));
    println!("cargo::rustc-env=SGD_RUSTC={}", rustc.unwrap_or_else(|| "rustc unknown".to_owned()));
    println!("cargo::rustc-env=SGD_TARGET={}", of_cargo("TARGET"));
    println!("cargo::rustc-env=SGD_PROFILE={}", of_cargo("PROFILE"));
    println!("cargo::rustc-env=SGD_COMMIT={}", commit(workspace));
}

/// As the environment says, for sources without their history; else as git does, if the build is one to give away: a debug build
/// would be made anew at every commit.
fn commit(workspace: &Path) -> String {
    println!("cargo::rerun-if-env-changed=SGD_COMMIT");
    if let Ok(commit) = std::env::var("SGD_COMMIT") {
        return commit;
    }
    if std::env::var("PROFILE").as_deref() != Ok("release") {
        return "not recorded in debug builds".to_owned();
    }
    let git = |arguments: &[&str]| said(Command::new("git").current_dir(workspace).args(arguments));
    for file in ["HEAD", "logs/HEAD"] {
        // As git names it, if there is one: it may lie elsewhere.
        if let Some(path) = git(&["rev-parse", "--git-path", file]).map(|path| workspace.join(path))
            && path.exists()
        {
            println!("cargo::rerun-if-changed={}", path.display());
        }
    }
    println!("cargo::rerun-if-changed=src");
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else { return "unknown".to_owned() };
    // Files that git does not know may be anything.
    let changed =
        git(&["status", "--porcelain", "--untracked-files=no"]).is_some_and(|files| !files.is_empty());
    if changed { format!("{commit}, with changes") } else { commit }
}

/// What a program prints, if it succeeds.
fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
