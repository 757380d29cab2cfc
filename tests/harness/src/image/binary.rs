//! What an executable says of itself.

use object::{
    Endianness,
    elf::{EM_AARCH64, EM_X86_64, FileHeader64, PT_DYNAMIC, PT_INTERP},
    read::elf::{FileHeader, ProgramHeader},
};

/// Why a binary does not run in an empty root.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotStatic {
    /// Not ELF, not 64 bits, or cut off.
    #[error("it is no executable of 64-bit Linux")]
    NotElf,
    /// It asks for a dynamic loader.
    #[error("it needs a dynamic loader; build it for a musl target")]
    Interpreter,
    /// It has a dynamic section: it would be moved, or look for libraries.
    #[error("it has a dynamic section; build it with `-C relocation-model=static`")]
    Dynamic,
    /// For a processor that k8vent is not released for.
    #[error("it is neither for x86_64 nor for aarch64")]
    Architecture,
}

/// The architecture of a static executable, by its name in an image.
pub(super) fn architecture(bytes: &[u8]) -> Result<&'static str, NotStatic> {
    let header = FileHeader64::<Endianness>::parse(bytes).map_err(|_| NotStatic::NotElf)?;
    let endian = header.endian().map_err(|_| NotStatic::NotElf)?;
    let segments = header.program_headers(endian, bytes).map_err(|_| NotStatic::NotElf)?;
    for segment in segments {
        match segment.p_type(endian) {
            PT_INTERP => return Err(NotStatic::Interpreter),
            PT_DYNAMIC => return Err(NotStatic::Dynamic),
            _ => {}
        }
    }
    match header.e_machine(endian) {
        EM_X86_64 => Ok("amd64"),
        EM_AARCH64 => Ok("arm64"),
        _ => Err(NotStatic::Architecture),
    }
}
