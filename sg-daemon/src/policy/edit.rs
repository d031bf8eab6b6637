//! Copying a group (K9).
