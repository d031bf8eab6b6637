//! Compiles the kernel side and tells the daemon where the object is, so that the binaries carry it inside.

use std::path::PathBuf;
use std::process::ExitCode;

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
    // TEMPORARY, until sg-ebpf is more than a placeholder: an empty object, so that the daemon compiles.
    if std::fs::read_to_string(workspace.join("sg-ebpf/src/main.rs"))
        .is_ok_and(|text| !text.contains("no_main"))
    {
        let empty = PathBuf::from(&out).join("empty");
        let written = std::fs::write(&empty, b"");
        println!("cargo::rustc-env=SGD_BPF_OBJECT={}", empty.display());
        return if written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    match sg_ebpf_build::build(&workspace, &PathBuf::from(out).join("bpf")) {
        Ok(object) => {
            println!("cargo::rustc-env=SGD_BPF_OBJECT={}", object.display());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}
