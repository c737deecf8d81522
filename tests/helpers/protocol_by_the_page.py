"""The protocol of docs/protocol.md written a second time, from the page alone: nothing of fedgrpo is imported.

    python tests/helpers/protocol_by_the_page.py > docs/protocol/vectors.json

Everything that a member draws at random is fixed here, so that the file is the same each time.
"""

import hashlib
import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NAMES = ("clinic-a", "clinic-b", "clinic-c", "clinic-d")
GONE = "clinic-d"
THRESHOLD = 2 * len(NAMES) // 3 + 1
PRIME = 2**256 + 297
WORDS = 8
VECTORS = {
    "clinic-a": [0, 1, 2, 3, 4, 5, 6, 7],
    "clinic-b": [4294967295, 4294967294, 0, 0, 2147483648, 1, 1, 1],
    "clinic-c": [1000000, 2000000, 3000000, 0, 2147483647, 9, 8, 7],
    "clinic-d": [5, 5, 5, 5, 5, 5, 5, 5],
}


def fixed(what):
    return hashlib.sha256(b"fedgrpo test vector: " + what.encode()).digest()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode("ascii")


def public(private):
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def hkdf(secret, salt, info):
    return HKDF(hashes.SHA256(), 32, salt, info).derive(secret)


def agreed(private, peer, salt, info):
    return hkdf(
        X25519PrivateKey.from_private_bytes(private).exchange(X25519PublicKey.from_public_bytes(peer)), salt, info
    )


def stream(key, length):
    return Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(length))


def mask(key):
    data = stream(key, 4 * WORDS)
    return [int.from_bytes(data[i : i + 4], "little") for i in range(0, len(data), 4)]


def shares_of(secret, what):
    """The polynomial's coefficients are fixed too, below the prime."""
    coefficients = [int.from_bytes(secret, "big")]
    coefficients += [int.from_bytes(fixed(f"{what}, coefficient {k}"), "big") for k in range(1, THRESHOLD)]
    values = [sum(c * x**k for k, c in enumerate(coefficients)) % PRIME for x in range(1, len(NAMES) + 1)]
    return [value.to_bytes(33, "big") for value in values]


class Member:
    def __init__(self, name):
        self.name = name
        self.identity = Ed25519PrivateKey.from_private_bytes(fixed(f"{name} identity"))
        self.mask_key, self.box_key, self.seed, self.salt = (
            fixed(f"{name} {what}") for what in ("mask key", "box key", "seed", "salt")
        )
        self.vector = VECTORS[name]

    def bundle(self, context):
        vector = b"".join(word.to_bytes(4, "little") for word in self.vector)
        values = {
            "context": context,
            "member": self.name,
            "mask_key": public(self.mask_key).hex(),
            "box_key": public(self.box_key).hex(),
            "self_mask": hashlib.sha256(self.seed).hexdigest(),
            "commitment": hashlib.sha256(self.salt + vector).hexdigest(),
        }
        text = b"fedgrpo secagg v1 bundle\n" + canonical(values)
        return (self.identity.sign(text) + text).hex()


def vectors():
    members = {name: Member(name) for name in NAMES}
    manifest = "ab" * 32  # its own encoding is in docs/audit.md
    context = {
        "version": 1,
        "kind": "train",
        "federation": "fed-1",
        "round": 3,
        "attempt": 1,
        "asked": "",
        "adapter": fixed("adapter").hex(),
        "config": fixed("config").hex(),
        "app": "fedgrpo 0.2.0",
        "manifest": manifest,
        "numbers": ["weight"],
    }
    bundles = {name: member.bundle(context) for name, member in members.items()}
    roster = hashlib.sha256(canonical(bundles)).digest()
    keys, masked = {}, {}
    for name, member in members.items():
        keys[f"self {name}"] = hkdf(member.seed, roster, b"fedgrpo secagg v1 self")
        total = [a + b for a, b in zip(member.vector, mask(keys[f"self {name}"]), strict=True)]
        for other in NAMES:
            if other == name:
                continue
            first, second = sorted((name, other))
            info = b"fedgrpo secagg v1 mask\0" + first.encode() + b"\0" + second.encode()
            key = agreed(member.mask_key, public(members[other].mask_key), roster, info)
            assert keys.setdefault(f"mask {first} {second}", key) == key
            sign = 1 if name < other else -1
            total = [a + sign * b for a, b in zip(total, mask(key), strict=True)]
            info = b"fedgrpo secagg v1 box\0" + name.encode() + b"\0" + other.encode()
            keys[f"box {name} {other}"] = agreed(member.box_key, public(members[other].box_key), roster, info)
        masked[name] = [word % 2**32 for word in total]
    survivors = [name for name in NAMES if name != GONE]
    statement = b"fedgrpo secagg v1 agreement\n" + canonical(
        {
            "context": hashlib.sha256(canonical(context)).hexdigest(),
            "roster": roster.hex(),
            "masked": list(NAMES),
            "survivors": survivors,
        }
    )
    seed_shares, key_shares = (
        shares_of(members["clinic-a"].seed, "seed"),
        shares_of(members["clinic-a"].mask_key, "key"),
    )
    about = roster.hex().encode() + b"\0clinic-a\0clinic-b"
    nonce = fixed("nonce")[:12]
    content = seed_shares[1] + key_shares[1]
    box = nonce + ChaCha20Poly1305(keys["box clinic-a clinic-b"]).encrypt(nonce, content, about)
    total = [sum(masked[name][place] for name in survivors) % 2**32 for place in range(WORDS)]
    return {
        "about": "docs/protocol.md says what each value is. Bytes are hexadecimal, words are numbers below 2^32.",
        "context": context,
        "context_sha256": hashlib.sha256(canonical(context)).hexdigest(),
        "threshold": THRESHOLD,
        "members": {
            name: {
                "identity_private": member.identity.private_bytes_raw().hex(),
                "identity_public": member.identity.public_key().public_bytes_raw().hex(),
                "mask_private": member.mask_key.hex(),
                "box_private": member.box_key.hex(),
                "seed": member.seed.hex(),
                "salt": member.salt.hex(),
                "vector": member.vector,
                "bundle": bundles[name],
            }
            for name, member in members.items()
        },
        "roster_sha256": roster.hex(),
        "keys": {name: key.hex() for name, key in keys.items()},
        "streams": {name: stream(key, 16).hex() for name, key in keys.items() if not name.startswith("box")},
        "shares_of_clinic_a": {
            "seed": [share.hex() for share in seed_shares],
            "mask_key": [share.hex() for share in key_shares],
        },
        "box_of_clinic_a_for_clinic_b": {"about": about.hex(), "content": content.hex(), "box": box.hex()},
        "masked_vectors": masked,
        "survivors": survivors,
        "agreement": statement.decode("ascii"),
        "signatures": {name: members[name].identity.sign(statement).hex() for name in survivors},
        "masked_total": total,
        "sum": [sum(VECTORS[name][place] for name in survivors) % 2**32 for place in range(WORDS)],
        "grid": {"clip_norm": 10.0, "members": 3, "step": 2.0**-26, "levels": 671088641},
        "digits": {"1": [0, 0, 16, 0, 0, 0, 0, 64], "-0.5": [0, 0, 248, 255, 255, 255, 255, 63]},
    }


if __name__ == "__main__":
    print(json.dumps(vectors(), indent=1))
