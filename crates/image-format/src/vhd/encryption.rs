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
//!
//! A sector of which every stored byte is zero was never written: the room of a block is zero until its data comes, and a loss
//! of power may take the data and leave the bit that says it is there. It is decrypted to zeroes, as the same sector of a plain
//! disk would be. (That a guest's data is encrypted to 512 zeroes does not happen.)

use aes::cipher::{Array, Block, BlockCipherDecrypt, BlockCipherEncrypt, BlockSizeUser, KeyInit, typenum::U16};
use aes::{Aes128, Aes256};
use block_core::{Error, ErrorKind, Result};
use sha2::{Digest, Sha256};
use zeroize::Zeroizing;

use super::KeyHash;

const SECTOR_BYTES: usize = 512;
const CIPHER_BYTES: usize = 16;
/// Parts of a sector that the cipher takes.
const PARTS: usize = SECTOR_BYTES / CIPHER_BYTES;

/// The key of a disk. Its memory is overwritten when it goes.
pub struct DiskKey {
    cipher: Cipher,
    /// As it was given, for the hash.
    bytes: Zeroizing<Vec<u8>>,
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
        Ok(DiskKey { cipher, bytes: Zeroizing::new(bytes.to_vec()) })
    }

    /// What an image keeps of the key.
    pub fn hash(&self, nonce: [u8; 32]) -> KeyHash {
        let hash = Sha256::new().chain_update(nonce).chain_update(&*self.bytes).finalize();
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

    /// Decrypts what [`DiskKey::encrypt`] has encrypted. Sectors that were never written stay zero.
    ///
    /// # Panics
    /// When `bytes` are not whole sectors.
    pub fn decrypt(&self, first: u64, bytes: &mut [u8]) {
        let (sectors, rest) = bytes.as_chunks_mut::<SECTOR_BYTES>();
        assert!(rest.is_empty(), "whole sectors are encrypted");
        let mut start = 0;
        while start < sectors.len() {
            let is_run = |sector: &&[u8; SECTOR_BYTES]| !is_unwritten(sector);
            let run = sectors[start..].iter().take_while(is_run).count();
            self.decrypt_written(first + start as u64, sectors[start..start + run].as_flattened_mut());
            start += run;
            start += sectors[start..].iter().take_while(|sector| is_unwritten(sector)).count();
        }
    }

    fn decrypt_written(&self, first: u64, bytes: &mut [u8]) {
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

impl PartialEq for DiskKey {
    fn eq(&self, other: &DiskKey) -> bool {
        self.bytes == other.bytes
    }
}

impl Eq for DiskKey {}

/// Whether nothing was ever written to a sector.
fn is_unwritten(sector: &[u8; SECTOR_BYTES]) -> bool {
    *sector == [0; SECTOR_BYTES]
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

    /// What Python's `cryptography` (OpenSSL) makes of the same four sectors with `XTS(tweak)`, sector by sector; SHA-256 of it.
    #[test]
    fn another_implementation_gives_the_same_ciphertext() {
        let plain: Vec<u8> = (0..2048_u32).map(|index| (index * index / 7 + index).to_le_bytes()[0]).collect();
        let keys = [(100..132).collect::<Vec<u8>>(), (0..64).collect()].map(|key| DiskKey::new(&key).unwrap());
        let stories = [
            (0, 0, "7b9a77ff6281ed7a0df1c3412775e24f6ab8cb025ebd48bd47f8bc6b1dcf922b"),
            (0, 1, "375b6c38b1d92b61c2a4805268e8c03b6522d4765f34e0db1a5cc8ad735924ff"),
            (0, 4095, "28462f708d1a790e9bf5c8589e7aec057e5d30b097594594637edfb36c8b8dcb"),
            (0, 0xffff_fffe, "2f56edc8077569d348b3dab5182437bf3dcd5936f63ce04de47b3d33a3c69531"),
            (0, (1 << 32) + 5, "cc05dc63fb36275e30877958c0745dd6eb1cd8add4d0041a2a9fc253b58f648b"),
            (1, 0, "f7bffee28694108d87ff3a54990501aa9d9dd4809fa623aed7ecfa678cff89a6"),
            (1, 1, "c4ec5ed8c6f2694aa57d98c8c4745747d263fe58f1bff701ac910ca76a2b8b41"),
            (1, 4095, "57aa45d6c86fc1934b1a69a02211aefe0529eba4280586ad6dcf4cdba1595fb0"),
            (1, 0xffff_fffe, "f68d92e071a46d0f9be49ce8f876a02d2dd19a1233aa405bf7899661cdc251cf"),
            (1, (1 << 32) + 5, "8aae4385516a58c55cf91d481bc5e121c2c33f231d398aaedba57c59ca6f8f51"),
        ];
        for (key, first, digest) in stories {
            let mut data = plain.clone();
            keys[key].encrypt(first, &mut data);
            assert_eq!(Sha256::digest(&data).to_vec(), bytes(digest), "{key} {first:#x}");
            keys[key].decrypt(first, &mut data);
            assert_eq!(data, plain);
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
    fn what_was_never_written_is_zero_between_what_was() {
        let key = DiskKey::new(&[7; 64]).unwrap();
        let plain: Vec<u8> = (0..6).flat_map(|_| counting()).collect();
        let mut data = plain.clone();
        key.encrypt(100, &mut data);
        for hole in [0, 2, 3, 5] {
            data[hole * 512..(hole + 1) * 512].fill(0);
        }
        key.decrypt(100, &mut data);
        let expected = [0, 1, 2, 3, 4, 5].map(|index| if [1, 4].contains(&index) { counting() } else { vec![0; 512] });
        assert_eq!(data, expected.concat());
        // Zeroes that were written are something else.
        let mut zeroes = vec![0; 512];
        key.encrypt(3, &mut zeroes);
        assert_ne!(zeroes, vec![0; 512]);
        key.decrypt(3, &mut zeroes);
        assert_eq!(zeroes, vec![0; 512]);
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
