"""Primitives against published vectors, through the functions that the protocol calls."""

from itertools import combinations

import numpy as np
import pytest
from fedgrpo.common.errors import ProtocolError
from fedgrpo.common.secagg import boxes, masks, shamir
from hypothesis import given
from hypothesis import strategies as st

PRIVATE_A = "77076d0a7318a57d3c16c17251b26645df4c2f87ebc0992ab177fba51db92c2a"
PUBLIC_A = "8520f0098930a754748b7ddcb43ef75a0dbf3a0d26381af4eba4a98eaa9b4e6a"
PRIVATE_B = "5dab087e624a8a4b79e17f8b83800ee66f3bb1292618b6fd1c2f8b27ff88e0eb"
PUBLIC_B = "de9edb7d7b7dc1b4d35b61c2ece435373f8343c85b78674dadfc7e146f882b4f"
SHARED = "4a5d9d5ba4ce2de1728e3bf480350f25e07e21c947d19e3376f09b3c1e161742"
SMALL_ORDER = [  # the points whose product with every private key is 0, as their u coordinates
    "00" * 32,
    "01" + "00" * 31,
    "e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800",
    "5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157",
    "ec" + "ff" * 30 + "7f",
    "ed" + "ff" * 30 + "7f",
    "ee" + "ff" * 30 + "7f",
]
PRIME, SECRET = 2147483659, 33


def hexed(text):
    return bytes.fromhex(text)


def test_public_keys_and_the_shared_secret_are_those_of_rfc_7748_6_1():
    assert boxes.public_of(hexed(PRIVATE_A)).hex() == PUBLIC_A
    assert boxes.public_of(hexed(PRIVATE_B)).hex() == PUBLIC_B
    assert boxes.shared(hexed(PRIVATE_A), hexed(PUBLIC_B)).hex() == SHARED
    assert boxes.shared(hexed(PRIVATE_B), hexed(PUBLIC_A)).hex() == SHARED


@pytest.mark.parametrize(
    ("scalar", "u", "result"),
    [
        (
            "a546e36bf0527c9d3b16154b82465edd62144c0ac1fc5a18506a2244ba449ac4",
            "e6db6867583030db3594c1a424b15f7c726624ec26b3353b10a903a6d0ab1c4c",
            "c3da55379de9c6908e94ea4df28d084f32eccf03491c71f754b4075577a28552",
        ),
        (
            "4b66e9d4d1b4673c5ad22691957d6af5c11b6421e0ea01d42ca4169e7918ba0d",
            "e5210f12786811d3f4b7959d0538ae2c31dbe7106fc03c3efc4cd549c715a493",
            "95cbde9476e8907d7aade45cb4b873f88b595a68799fa152e6f8f7647aac7957",
        ),
    ],
)
def test_x25519_is_that_of_rfc_7748_5_2(scalar, u, result):
    assert boxes.shared(hexed(scalar), hexed(u)).hex() == result


def test_x25519_a_thousand_times_over_is_that_of_rfc_7748_5_2():
    k = u = hexed("09" + "00" * 31)
    for number in range(1000):
        k, u = boxes.shared(k, u), k
        if number == 0:
            assert k.hex() == "422c8e7a6227d7bca1350b3e2bb7279f7897b87bb6854b783c60e80311ae3079"
    assert k.hex() == "684cf59ba83309552800ef566f2f4d3c1c3887c49360e3875f2eb94d99532c51"


@pytest.mark.parametrize("public", SMALL_ORDER)
def test_no_key_is_agreed_on_with_a_point_of_small_order(public):
    for top_bit in (0, 0x80):
        point = hexed(public)
        with pytest.raises(ProtocolError, match="not one that a key can be agreed with") as caught:
            boxes.agreed(hexed(PRIVATE_A), point[:31] + bytes([point[31] | top_bit]), b"", b"")
        assert caught.value.code == "secagg.key"


@pytest.mark.parametrize(
    ("secret", "salt", "info", "key"),
    [
        (
            bytes([0x0B] * 22),
            bytes(range(0x0D)),
            bytes(range(0xF0, 0xFA)),
            "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf",
        ),
        (
            bytes(range(0x50)),
            bytes(range(0x60, 0xB0)),
            bytes(range(0xB0, 0x100)),
            "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c",
        ),
        (bytes([0x0B] * 22), b"", b"", "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"),
    ],
)
def test_derived_keys_are_the_first_32_bytes_of_rfc_5869_s(secret, salt, info, key):
    assert boxes.derived(secret, salt, info).hex() == key


def test_an_agreed_key_is_the_derived_one_of_the_shared_secret():
    salt, info = b"salt", boxes.mask_info("b", "a")
    found = boxes.agreed(hexed(PRIVATE_A), hexed(PUBLIC_B), salt, info)
    assert found == boxes.derived(hexed(SHARED), salt, info)
    assert found == boxes.agreed(hexed(PRIVATE_B), hexed(PUBLIC_A), salt, info)


def test_keys_differ_by_purpose_pair_direction_and_roster():
    infos = {
        boxes.MASK,
        boxes.SELF,
        boxes.BOX,
        *(boxes.mask_info(*pair) for pair in combinations("abcd", 2)),
        *(boxes.box_info(a, b) for a in "abcd" for b in "abcd" if a != b),
        boxes.mask_info("ab", "c"),
        boxes.mask_info("a", "bc"),
    }
    assert len(infos) == 3 + 6 + 12 + 2
    assert boxes.mask_info("x", "a") == boxes.mask_info("a", "x")
    keys = {boxes.agreed(hexed(PRIVATE_A), hexed(PUBLIC_B), salt, info) for salt in (b"1", b"2") for info in infos}
    assert len(keys) == 2 * len(infos)


def test_a_box_is_that_of_rfc_8439_2_8_2_behind_its_nonce():
    key, nonce, about = bytes(range(0x80, 0xA0)), hexed("070000004041424344454647"), hexed("50515253c0c1c2c3c4c5c6c7")
    box = hexed(
        "d31a8d34648e60db7b86afbc53ef7ec2a4aded51296e08fea9e2b5a736ee62d63dbea45e8ca9671282fafb69da92728b"
        "1a71de0a9e060b2905d6a5b67ecd3b3692ddbd7f2d778b8c9803aee328091b58fab324e4fad675945585808b4831d7bc"
        "3ff4def08e4b7a9de576d26586cec64b61161ae10b594f09e26a7e902ecbd0600691"
    )
    text = boxes.opened(key, nonce + box, about)
    assert text.startswith(b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip")
    assert len(text) == 114
    again = boxes.sealed(key, text, about)
    assert boxes.opened(key, again, about) == text
    assert again[:12] != boxes.sealed(key, text, about)[:12]


def test_a_box_is_not_opened_if_one_bit_of_it_its_key_or_what_it_is_about_differs():
    key, about = bytes(range(32)), b"about"
    box = boxes.sealed(key, b"two shares", about)
    changes = [(key, box[:k] + bytes([box[k] ^ 1]) + box[k + 1 :], about) for k in range(len(box))]
    changes += [(key, box[:k], about) for k in range(len(box))]
    changes += [(key, box + b"\0", about), (bytes(32), box, about), (key, box, b"other")]
    for change in changes:
        with pytest.raises(ProtocolError) as caught:
            boxes.opened(*change)
        assert caught.value.code == "secagg.box"


def test_the_aes_stream_is_that_of_nist_sp_800_38a_f_5_5():
    key = hexed("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    text = hexed(
        "6bc1bee22e409f96e93d7e117393172aae2d8a571e03ac9c9eb76fac45af8e51"
        "30c81c46a35ce411e5fbc1191a0a52eff69f2445df4f9b17ad2b417be66c3710"
    )
    assert masks.CIPHERS["aes-256-ctr"](key, bytes(range(0xF0, 0x100))).update(text) == hexed(
        "601ec313775789a5b7a7f504bbf3d228f443e3ca4d62b59aca84e990cacaf5c5"
        "2b0930daa23de94ce87017ba2d84988ddfc9c58db67aada613c2dd08457941a6"
    )


@pytest.mark.parametrize(
    ("cipher", "stream"),
    [
        # the zero block under the zero key, as in test case 13 of "The Galois/counter mode of operation"
        ("aes-256-ctr", "dc95c078a2408989ad48a21492842087"),
        # RFC 8439, A.1, test vector 1
        (
            "chacha20",
            "76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7"
            "da41597c5157488d7724e03fb8d84a376a43b8f41518a11cc387b669b2ee6586",
        ),
    ],
)
@pytest.mark.parametrize("dtype", ["<u4", "<u2"])
def test_a_mask_is_the_published_stream_from_counter_zero_as_little_endian_words(cipher, stream, dtype):
    words = np.frombuffer(hexed(stream), dtype)
    vector = np.zeros(words.size, dtype)
    masks.add_mask(vector, bytes(32), cipher)
    assert np.array_equal(vector, words)
    masks.add_mask(vector, bytes(32), cipher, subtract=True)
    assert not vector.any()


@pytest.mark.parametrize("cipher", masks.CIPHERS)
@pytest.mark.parametrize("dtype", ["<u4", "<u2"])
def test_a_mask_of_any_length_is_the_beginning_of_one_stream(cipher, dtype):
    key, itemsize = bytes(range(32)), np.dtype(dtype).itemsize
    per_chunk = masks.CHUNK // itemsize
    stream = masks.CIPHERS[cipher](key).update(bytes(2 * masks.CHUNK + 64))
    for size in (0, 1, 3, per_chunk - 1, per_chunk, per_chunk + 1, 2 * per_chunk + 5):
        vector = np.arange(size).astype(dtype)
        masks.add_mask(vector, key, cipher)
        mask = np.frombuffer(stream[: size * itemsize], dtype)
        assert np.array_equal(vector, np.arange(size).astype(dtype) + mask)


@pytest.mark.parametrize("cipher", masks.CIPHERS)
@pytest.mark.parametrize("dtype", ["<u4", "<u2"])
def test_masks_are_the_same_however_many_threads_add_them(cipher, dtype, monkeypatch):
    keys = [(bytes([k]) * 32, bool(k % 2)) for k in range(3)]
    for size in (1, 5 * masks.CHUNK // np.dtype(dtype).itemsize + 77):
        found = []
        for threads in (1, 2, 3, 7):
            monkeypatch.setattr(masks, "THREADS", threads)
            monkeypatch.setattr(masks, "CHUNKS_PER_THREAD", 1)
            vector = np.zeros(size, dtype)
            masks.add_masks(vector, keys, cipher)
            found.append(vector)
        stream = [np.frombuffer(masks.CIPHERS[cipher](k).update(bytes(found[0].nbytes)), dtype) for k, _ in keys]
        assert all(np.array_equal(vector, stream[0] - stream[1] + stream[2]) for vector in found)


def test_any_three_of_five_shares_of_33_modulo_2147483659_give_it_and_two_do_not():
    values = shamir.points(SECRET, 3, range(1, 6), PRIME)
    for places in combinations(range(1, 6), 3):
        coefficients = shamir.lagrange_at_zero(places, PRIME)
        assert sum(c * values[x - 1] for c, x in zip(coefficients, places, strict=True)) % PRIME == SECRET
    wrong = 0
    for places in combinations(range(1, 6), 2):
        coefficients = shamir.lagrange_at_zero(places, PRIME)
        wrong += sum(c * values[x - 1] for c, x in zip(coefficients, places, strict=True)) % PRIME != SECRET
    assert wrong >= 9  # one may hit it by chance, with a probability of 1 in 2147483659


def test_lagrange_coefficients_are_those_that_are_worked_out_by_hand():
    assert shamir.lagrange_at_zero((1, 2, 3), PRIME) == [3, PRIME - 3, 1]
    assert shamir.lagrange_at_zero((1, 2), PRIME) == [2, PRIME - 1]
    assert shamir.lagrange_at_zero((7,), PRIME) == [1]
    known = [(33 + 5 * x + 7 * x * x) % PRIME for x in (1, 2, 3)]
    assert sum(c * y for c, y in zip((3, -3, 1), known, strict=True)) % PRIME == SECRET


def test_the_field_is_of_a_prime_and_the_smallest_above_2_256():
    def is_prime(number):  # Miller-Rabin; the first 40 primes as bases
        d, r = number - 1, 0
        while d % 2 == 0:
            d, r = d // 2, r + 1
        bases = [k for k in range(2, 174) if all(k % j for j in range(2, k))]
        for base in bases:
            x = pow(base, d, number)
            if x not in (1, number - 1) and all((x := x * x % number) != number - 1 for _ in range(r - 1)):
                return False
        return True

    assert is_prime(PRIME)
    assert is_prime(shamir.PRIME)
    assert not any(is_prime(number) for number in range((1 << 256) + 1, shamir.PRIME, 2))


@given(
    st.one_of(st.binary(min_size=32, max_size=32), st.just(b"\xff" * 32), st.just(bytes(32))),
    st.integers(1, 12),
    st.data(),
)
def test_any_threshold_of_shares_gives_the_secret(secret, members, data):
    threshold = data.draw(st.integers(1, members))
    shares = shamir.split(secret, threshold, members)
    places = data.draw(st.permutations(range(1, members + 1)))[:threshold]
    chosen = {place: shares[place - 1] for place in places}
    assert shamir.join(chosen, shamir.lagrange_at_zero(list(chosen))) == secret
    assert {len(share) for share in shares} == {shamir.SHARE_BYTES}


def test_fewer_shares_than_the_threshold_fit_every_secret():
    """For two shares of three and any other secret there is a polynomial, so they say nothing."""
    prime = 251
    one, two = shamir.points(17, 3, (1, 2), prime)
    for secret in range(prime):
        third = (secret - 3 * one + 3 * two) % prime  # f(0) = 3 f(1) - 3 f(2) + f(3)
        coefficients = shamir.lagrange_at_zero((1, 2, 3), prime)
        assert sum(c * y for c, y in zip(coefficients, (one, two, third), strict=True)) % prime == secret


def test_coefficients_are_uniform_over_the_field_the_highest_included():
    """A share of a fixed secret is uniform: chi-square over 13 values in 2,600 draws, one in 10^6 by chance."""
    counts = np.bincount([shamir.points(5, 2, (1,), 13)[0] for _ in range(2600)], minlength=13)
    assert float(((counts - 200) ** 2 / 200).sum()) < 52.6  # the 1 - 1e-6 quantile of chi-square with 12 degrees


@pytest.mark.parametrize(("threshold", "members"), [(0, 3), (4, 3), (-1, 3)])
def test_a_threshold_that_cannot_be_is_refused(threshold, members):
    with pytest.raises(ProtocolError, match="cannot be shared") as caught:
        shamir.split(bytes(32), threshold, members)
    assert caught.value.code == "secagg.shares"


def test_shares_of_something_else_than_32_bytes_are_refused():
    with pytest.raises(ProtocolError):
        shamir.split(bytes(31), 2, 3)
    shares = {1: b"\x01" + bytes(32)}  # the value 2^256, which no secret is
    with pytest.raises(ProtocolError, match="do not belong to one secret"):
        shamir.join(shares, shamir.lagrange_at_zero([1]))
