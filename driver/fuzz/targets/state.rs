//! The state file. What is read is the same when it is written and read again; a complaint names the file.
#![no_main]
use std::{fs, path::PathBuf, sync::LazyLock};

use docker_passthrough::{
    fuzz,
    state::store::{self, Error},
};
use libfuzzer_sys::fuzz_target;

static FOLDER: LazyLock<PathBuf> = LazyLock::new(|| {
    let folder = std::env::temp_dir().join("docker-passthrough-fuzz");
    fs::create_dir_all(&folder).expect("a folder");
    folder
});

fuzz_target!(|data: &[u8]| {
    let file = FOLDER.join("state.json");
    fs::write(&file, data).expect("a file");
    match store::read(&FOLDER) {
        Ok(state) => {
            fs::write(&file, fuzz::file(&state).expect("JSON")).expect("a file");
            assert_eq!(store::read(&FOLDER).expect("what was accepted once"), state);
        }
        Err(error) => {
            assert!(matches!(error, Error::Damaged { .. } | Error::Newer { .. }), "{error}");
            assert!(error.to_string().starts_with(&*file.to_string_lossy()), "{error}");
        }
    }
    fs::remove_file(&file).expect("it is there");
});
