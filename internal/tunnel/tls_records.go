package tunnel

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"hash"
	"strings"

	"golang.org/x/crypto/chacha20poly1305"
)

// Content types of TLS records (RFC 8446, section 5.1).
const (
	recordHandshake       = 22
	recordApplicationData = 23
)

// recordSender makes the records of one side of a TLS 1.3 connection (RFC 8446,
// section 5.2). crypto/tls cannot be asked for a KeyUpdate or for records of a
// given shape.
type recordSender struct {
	suite  uint16
	secret []byte
	seq    uint64
	aead   cipher.AEAD
	iv     []byte
}

// newRecordSender takes the secret from keyLog, which crypto/tls has written, by its
// label.
func newRecordSender(suite uint16, label, keyLog string) (*recordSender, error) {
	for line := range strings.Lines(keyLog) {
		fields := strings.Fields(line)
		if len(fields) != 3 || fields[0] != label {
			continue
		}
		secret, err := hex.DecodeString(fields[2])
		if err != nil {
			return nil, err
		}
		s := &recordSender{suite: suite, secret: secret}
		return s, s.setKey()
	}
	return nil, fmt.Errorf("no %s", label)
}

// setKey derives the keys from the secret (RFC 8446, section 7.3).
func (s *recordSender) setKey() error {
	s.seq = 0
	size := map[uint16]int{
		tls.TLS_AES_128_GCM_SHA256: 16, tls.TLS_AES_256_GCM_SHA384: 32, tls.TLS_CHACHA20_POLY1305_SHA256: 32,
	}[s.suite]
	key, err := s.expand("key", size)
	if err != nil {
		return err
	}
	if s.iv, err = s.expand("iv", 12); err != nil {
		return err
	}
	if s.suite == tls.TLS_CHACHA20_POLY1305_SHA256 {
		s.aead, err = chacha20poly1305.New(key)
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	s.aead, err = cipher.NewGCM(block)
	return err
}

// expand is HKDF-Expand-Label without a context (RFC 8446, section 7.1).
func (s *recordSender) expand(label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(append(info, byte(len(label))), label...)
	info = append(info, 0)
	h := func() hash.Hash { return sha256.New() }
	if s.suite == tls.TLS_AES_256_GCM_SHA384 {
		h = func() hash.Hash { return sha512.New384() }
	}
	return hkdf.Expand(h, s.secret, string(info), size)
}

// record returns one record with content of the given type.
func (s *recordSender) record(contentType byte, content []byte) []byte {
	inner := append(append([]byte(nil), content...), contentType)
	record := []byte{recordApplicationData, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(record[3:], uint16(len(inner)+s.aead.Overhead()))
	nonce := append([]byte(nil), s.iv...)
	for i := range 8 {
		nonce[4+i] ^= byte(s.seq >> (56 - 8*i))
	}
	s.seq++
	return s.aead.Seal(record, nonce, inner, record)
}

// keyUpdate returns a KeyUpdate message, and changes the keys (RFC 8446, sections
// 4.6.3 and 7.2). requested asks the peer to do so too.
func (s *recordSender) keyUpdate(requested bool) []byte {
	message := []byte{24, 0, 0, 1, 0}
	if requested {
		message[4] = 1
	}
	record := s.record(recordHandshake, message)
	secret, err := s.expand("traffic upd", len(s.secret))
	if err == nil {
		s.secret = secret
		err = s.setKey()
	}
	if err != nil {
		panic(err) // it went well before, with the same sizes
	}
	return record
}
