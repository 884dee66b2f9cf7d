"""Which keys are good enough, and the public names of their kinds. Pure.

RSA from 2048 bits, or EC on three named curves: nothing that can be guessed, no curve that the sender describes
himself, and no number so large that to look at it takes the Controller minutes.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, rsa

from fairlead.base.errors import Refused

LEAST_BITS, MOST_BITS = 2048, 8192
CURVES: Mapping[str, ec.EllipticCurve] = MappingProxyType({
    "SSL_KEY_EC_CURVE_SECP256R1": ec.SECP256R1(),
    "SSL_KEY_EC_CURVE_SECP384R1": ec.SECP384R1(),
    "SSL_KEY_EC_CURVE_SECP521R1": ec.SECP521R1(),
})
SIZES: Mapping[str, int] = MappingProxyType({f"SSL_KEY_{bits}_BITS": bits for bits in (1024, 2048, 3072, 4096)})

Key = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey


def weakness(key: object) -> Refused | None:
    """Why a key (private or public, None if it cannot be read) is not good enough; None when it is.

    FL-CERT-KEY-WEAK, FL-CERT-KEY-TYPE.
    """
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        if key.key_size < LEAST_BITS:
            return weak(f"an RSA key of {key.key_size} bits")
        return None if key.key_size <= MOST_BITS else strange(f"an RSA key of {key.key_size} bits")
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        return None if any(key.curve.name == c.name for c in CURVES.values()) else strange("a key on another EC curve")
    return strange("the key")


def strong(key: object) -> Key:
    """A private key that is good enough. Raises Refused as `weakness`."""
    if (refusal := weakness(key)) is not None:
        raise refusal
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise strange("a public key")
    return key


def key_params(key: object) -> dict[str, Any] | None:
    """The public ``SSLKeyParams`` of a key, private or public; None for a kind that they have no name for."""
    if isinstance(key, rsa.RSAPrivateKey | rsa.RSAPublicKey):
        public = key.public_key() if isinstance(key, rsa.RSAPrivateKey) else key
        exponent = public.public_numbers().e
        params: dict[str, Any] = {"exponent": exponent} if exponent < 2**32 else {}
        for name, bits in SIZES.items():
            if bits == key.key_size:
                params["key_size"] = name
        return {"algorithm": "SSL_KEY_ALGORITHM_RSA", "rsa_params": params}
    if isinstance(key, ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey):
        for name, curve in CURVES.items():
            if curve.name == key.curve.name:
                return {"algorithm": "SSL_KEY_ALGORITHM_EC", "ec_params": {"curve": name}}
    return None


def weak(what: str) -> Refused:
    """The refusal of a key that can be guessed."""
    return Refused("FL-CERT-KEY-WEAK", f"{what} can be guessed", "make one of 2048 bits or more, or on an EC curve")


def strange(what: str) -> Refused:
    """The refusal of a key of another kind."""
    return Refused("FL-CERT-KEY-TYPE",
                   f"{what} is neither RSA of {LEAST_BITS} to {MOST_BITS} bits nor EC P-256, P-384 or P-521",
                   "make one of these")
