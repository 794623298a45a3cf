//! Encrypted disks: AES in XTS mode, sector by sector, and what an image says of the key.
//!
//! ```text
//!   key      | for the data: 16 or 32 bytes | for the tweak: as many |
//!   tweak    | low 32 bits of the sector's number on the disk, little-endian | zero |      16 bytes
//!   image    | nonce: 32 bytes | SHA-256 of nonce and key |                                 in the batmap's header
//! ```
//!
//! Only the sectors of the disk are encrypted, each by its place on the disk: tables are not, and a block may be moved, also to
//! another image of the chain, as it is. The place counts 32 bits, so that it repeats every 2 TiB; that is how such disks have
//! always been written.

use aes::cipher::{Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, typenum::U16};
use aes::{Aes128, Aes256};
use block_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};

use super::KeyHash;

const SECTOR_BYTES: usize = 512;
const CIPHER_BYTES: usize = 16;
/// Parts of a sector that the cipher takes.
const PARTS: usize = SECTOR_BYTES / CIPHER_BYTES;

/// The key of a disk.
pub struct DiskKey {
    cipher: Cipher,
    /// As it was given, for the hash.
    bytes: Vec<u8>,
}

/// The ciphers of the data and of the tweak.
enum Cipher {
    Short(Box<(Aes128, Aes128)>),
    Long(Box<(Aes256, Aes256)>),
}

impl DiskKey {
    /// A key of 32 bytes (AES-128) or 64 (AES-256).
    ///
    /// # Errors
    /// `Invalid` for any other number of bytes.
    pub fn new(bytes: &[u8]) -> Result<DiskKey> {
        let (data, tweak) = bytes.split_at(bytes.len() / 2);
        let no_key = |_| Error::new(ErrorKind::Invalid, "a key has 32 or 64 bytes");
        let cipher = match bytes.len() {
            32 => Cipher::Short(Box::new((
                Aes128::new_from_slice(data).map_err(no_key)?,
                Aes128::new_from_slice(tweak).map_err(no_key)?,
            ))),
            64 => Cipher::Long(Box::new((
                Aes256::new_from_slice(data).map_err(no_key)?,
                Aes256::new_from_slice(tweak).map_err(no_key)?,
            ))),
            length => return Err(Error::new(ErrorKind::Invalid, format!("a key has 32 or 64 bytes, not {length}"))),
        };
        Ok(DiskKey { cipher, bytes: bytes.to_vec() })
    }

    /// What an image keeps of the key.
    pub fn hash(&self, nonce: [u8; 32]) -> KeyHash {
        let hash = Sha256::new().chain_update(nonce).chain_update(&self.bytes).finalize();
        KeyHash { nonce, hash: hash.into() }
    }

    /// Whether an image means this key.
    pub fn fits(&self, hash: &KeyHash) -> bool {
        self.hash(hash.nonce) == *hash
    }

    /// Encrypts whole sectors in place; `first` is the number of the first of them on the disk.
    ///
    /// # Panics
    /// When `bytes` are not whole sectors.
    pub fn encrypt(&self, first: u64, bytes: &mut [u8]) {
        match &self.cipher {
            Cipher::Short(ciphers) => each_sector(&ciphers.1, first, bytes, |parts| ciphers.0.encrypt_blocks(parts)),
            Cipher::Long(ciphers) => each_sector(&ciphers.1, first, bytes, |parts| ciphers.0.encrypt_blocks(parts)),
        }
    }

    /// Decrypts what [`DiskKey::encrypt`] has encrypted.
    ///
    /// # Panics
    /// When `bytes` are not whole sectors.
    pub fn decrypt(&self, first: u64, bytes: &mut [u8]) {
        match &self.cipher {
            Cipher::Short(ciphers) => each_sector(&ciphers.1, first, bytes, |parts| ciphers.0.decrypt_blocks(parts)),
            Cipher::Long(ciphers) => each_sector(&ciphers.1, first, bytes, |parts| ciphers.0.decrypt_blocks(parts)),
        }
    }
}

impl std::fmt::Debug for DiskKey {
    /// Says nothing of the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DiskKey({} bytes)", self.bytes.len())
    }
}

impl Drop for DiskKey {
    fn drop(&mut self) {
        self.bytes.fill(0);
    }
}

/// The tweaks of the parts of a sector are each the one before, times x in GF(2^128).
fn each_sector<T: BlockCipherEncrypt + BlockSizeUser<BlockSize = U16>>(
    tweak_cipher: &T,
    first: u64,
    bytes: &mut [u8],
    apply: impl Fn(&mut [Block<T>]),
) {
    let (sectors, rest) = bytes.as_chunks_mut::<SECTOR_BYTES>();
    assert!(rest.is_empty(), "whole sectors are encrypted");
    for (sector, bytes) in (first..).zip(sectors) {
        let mut tweak: Block<T> = Array::from(u128::from(sector & 0xffff_ffff).to_le_bytes());
        tweak_cipher.encrypt_block(&mut tweak);
        let mut tweak = u128::from_le_bytes(tweak.into());
        let mut tweaks = [0; PARTS];
        for slot in &mut tweaks {
            *slot = tweak;
            tweak = (tweak << 1) ^ if tweak >> 127 == 1 { 0x87 } else { 0 };
        }
        let mut parts: [Block<T>; PARTS] = Default::default();
        for ((part, tweak), bytes) in parts.iter_mut().zip(tweaks).zip(bytes.as_chunks::<CIPHER_BYTES>().0) {
            *part = Array::from((u128::from_le_bytes(*bytes) ^ tweak).to_le_bytes());
        }
        apply(&mut parts);
        for ((part, tweak), bytes) in parts.iter().zip(tweaks).zip(bytes.as_chunks_mut::<CIPHER_BYTES>().0) {
            *bytes = (u128::from_le_bytes((*part).into()) ^ tweak).to_le_bytes();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(digits: &str) -> Vec<u8> {
        (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(&digits[at..at + 2], 16).unwrap()).collect()
    }

    fn counting() -> Vec<u8> {
        (0..512_u32).map(|index| index.to_le_bytes()[0]).collect()
    }

    /// Vectors 4 and 10 of IEEE 1619, which have whole sectors.
    #[test]
    fn the_vectors_of_the_standard_come_out() {
        let short = "2718281828459045235360287471352631415926535897932384626433832795";
        let long = "27182818284590452353602874713526624977572470936999595749669676273141592653589793238462643383279\
                    502884197169399375105820974944592";
        let stories = [
            (short, 0, "27a7479befa1d476489f308cd4cfa6e2a96e4bbe3208ff25287dd3819616e89c"),
            (long, 0xff, "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b"),
        ];
        for (key, sector, start) in stories {
            let key = DiskKey::new(&bytes(key)).unwrap();
            let mut data = counting();
            key.encrypt(sector, &mut data);
            assert_eq!(data[..32], bytes(start));
            key.decrypt(sector, &mut data);
            assert_eq!(data, counting());
        }
    }

    #[test]
    fn sectors_are_encrypted_each_by_its_place_which_has_32_bits() {
        let key = DiskKey::new(&[7; 64]).unwrap();
        let whole = |first: u64| {
            let mut data = [counting(), counting()].concat();
            key.encrypt(first, &mut data);
            data
        };
        let (both, second) = (whole(8), whole(9));
        assert!(both[..512] != both[512..] && both[512..] == second[..512]);
        assert_eq!(whole(8 + (1 << 32)), both);
        assert!(whole(0xffff_ffff)[512..] == whole(0)[..512]);
    }

    #[test]
    fn the_hash_is_of_the_nonce_and_the_key() {
        let key = DiskKey::new(&[0; 32]).unwrap();
        let hash = key.hash([0; 32]);
        // SHA-256 of 64 zero bytes.
        assert_eq!(hash.hash.to_vec(), bytes("f5a5fd42d16a20302798ef6ed309979b43003d2320d9f0e8ea9831a92759fb4b"));
        assert!(key.fits(&hash) && !DiskKey::new(&[1; 32]).unwrap().fits(&hash));
        assert!(!key.fits(&KeyHash { nonce: [1; 32], ..hash }));
    }

    #[test]
    fn keys_have_32_or_64_bytes() {
        for wrong in [0, 16, 31, 33, 48, 63, 65, 128] {
            assert!(DiskKey::new(&vec![1; wrong]).is_err(), "{wrong}");
        }
    }
}
