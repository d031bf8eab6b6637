//! Compiles the kernel side and tells the daemon where the object is, so that the binaries carry it inside.

use std::path::PathBuf;
use std::process::ExitCode;

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
