//! Loading the two libraries.

use libloading::Library;

use crate::{Ibverbs, Librpma};

/// The names that librpma 1.x goes by. Its soname has been 0 since its first release.
const LIBRPMA: &[&str] = &["librpma.so.0"];
const LIBIBVERBS: &[&str] = &["libibverbs.so.1"];

/// Why a library cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// It is not there, or something that it needs itself is not.
    #[error("{library} cannot be loaded: {source}")]
    Library {
        /// The file that the loader was asked for.
        library: &'static str,
        /// What the loader says.
        #[source]
        source: libloading::Error,
    },
    /// It is another version.
    #[error("{library} lacks a function: {source}")]
    Symbol {
        /// The file.
        library: &'static str,
        /// What the loader says.
        #[source]
        source: libloading::Error,
    },
}

fn open(names: &[&'static str]) -> Result<(Library, &'static str), LoadError> {
    let mut last = None;
    for &library in names {
        // SAFETY: loading runs the library's initialisers. Those of librpma set up its log, those of libibverbs
        // nothing; both are made to be loaded by any program.
        match unsafe { Library::new(library) } {
            Ok(loaded) => return Ok((loaded, library)),
            Err(source) => last = Some(LoadError::Library { library, source }),
        }
    }
    Err(last.expect("there is at least one name"))
}

impl Librpma {
    /// Loads librpma.
    ///
    /// # Errors
    /// [`LoadError`], which names what is missing.
    pub fn load() -> Result<Self, LoadError> {
        let (loaded, library) = open(LIBRPMA)?;
        // SAFETY: the library is the one whose header the signatures were generated from; the soname stands for a
        // compatible one.
        unsafe { Self::from_library(loaded) }.map_err(|source| LoadError::Symbol { library, source })
    }
}

impl Ibverbs {
    /// Loads libibverbs.
    ///
    /// # Errors
    /// [`LoadError`], which names what is missing.
    pub fn load() -> Result<Self, LoadError> {
        let (loaded, library) = open(LIBIBVERBS)?;
        Self::from_library(loaded).map_err(|source| LoadError::Symbol { library, source })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_library_that_is_not_there_is_named() {
        let error = open(&["libno-such-thing.so.7"]).unwrap_err();
        assert!(error.to_string().contains("libno-such-thing.so.7"), "{error}");
    }

    #[test]
    fn a_library_without_the_functions_is_an_error_that_names_one() {
        // The C library is there, and has no function of librpma.
        let (libc, library) = open(&["libc.so.6"]).unwrap();
        // SAFETY: nothing is called; the signatures do not come into it.
        let error = unsafe { Librpma::from_library(libc) }.map(drop).unwrap_err();
        assert!(LoadError::Symbol { library, source: error }.to_string().contains("rpma_"));
        let (libc, library) = open(&["libc.so.6"]).unwrap();
        let error = Ibverbs::from_library(libc).map(drop).unwrap_err();
        assert!(LoadError::Symbol { library, source: error }.to_string().contains("ibv_"));
    }
}
