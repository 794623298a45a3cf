//! `key`: which key a disk is encrypted with, as far as its image knows it.

use block_core::{Error, Result, ResultExt};
use image_format::vhd::KeyHash;
use rustix::{fs::getxattr, io::Errno};

use super::{Session, opened::OpenedVhd};

/// Where a file without a batmap has it: a byte that says so, the nonce, the hash.
const ATTRIBUTE: &str = "user.com.citrix.xenclient.backend.keyhash";
const ATTRIBUTE_BYTES: usize = 65;

/// The hash of the key; none if the disk is not encrypted.
pub(super) async fn key_hash(session: &Session, vhd: &OpenedVhd) -> Result<Option<KeyHash>> {
    if let Some(batmap) = vhd.batmap_header(&session.executor).await? {
        return Ok(batmap.key_hash());
    }
    let mut value = [0; ATTRIBUTE_BYTES];
    match getxattr(&vhd.path, ATTRIBUTE, &mut value) {
        Ok(ATTRIBUTE_BYTES) if value[0] != 0 => {
            let part = |from: usize| value[from..from + 32].try_into().expect("32 bytes of 65");
            Ok(Some(KeyHash { nonce: part(1), hash: part(33) }))
        }
        Ok(_) | Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(error) => Err(Error::from_os("its extended attribute", error.into())).context(vhd.path.display()),
    }
}

/// Bytes as hexadecimal digits.
pub(super) fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
