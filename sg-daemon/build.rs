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
