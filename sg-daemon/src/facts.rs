//! What this build is, for reports of faults.

use std::sync::LazyLock;

use sg_common::abi::ABI_VERSION;

/// `sgd --version`, behind the name.
pub fn text() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        format!(
            "{}\ncommit:          {}\nbuilt by:        {}, for {}, profile {}\nkernel programs: maps of layout {ABI_VERSION}, object {}",
            env!("CARGO_PKG_VERSION"),
            env!("SGD_COMMIT"),
            env!("SGD_RUSTC"),
            env!("SGD_TARGET"),
            env!("SGD_PROFILE"),
            env!("SGD_BPF_OBJECT_HASH"),
        )
    });
    &TEXT
}
