// Package tls13 makes the TLS 1.3 records that a hostile client sends and
// crypto/tls never would, such as KeyUpdate messages. crypto/tls makes the
// handshake and tells the secret as for a key log; from then on this package
// alone may write to the connection, while crypto/tls goes on reading.
package tls13

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/sha256"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Content types and messages of RFC 8446, sections 5.1 and 4.
const (
	recordHandshake       = 22
	recordApplicationData = 23
	messageKeyUpdate      = 24
	updateRequested       = 1
)

// Secret is a tls.Config's KeyLogWriter, of one connection, that keeps the
// secret a Sealer needs.
type Secret struct{ client []byte }

// Write takes a line of a key log.
func (s *Secret) Write(line []byte) (int, error) {
	if fields := strings.Fields(string(line)); len(fields) == 3 && fields[0] == "CLIENT_TRAFFIC_SECRET_0" {
		secret, err := hex.DecodeString(fields[2])
		if err != nil {
			return 0, err
		}
		s.client = secret
	}
	return len(line), nil
}

// Sealer makes a client's records, as RFC 8446, section 5.2 wants them. It
// knows the one cipher suite that is used here, TLS_AES_128_GCM_SHA256.
type Sealer struct {
	secret []byte
	aead   cipher.AEAD
	iv     []byte
	count  uint64 // of records sealed with this key
}

// NewSealer goes on where the handshake ended. Nothing may have been written
// since.
func NewSealer(state tls.ConnectionState, secret *Secret) (*Sealer, error) {
	if state.CipherSuite != tls.TLS_AES_128_GCM_SHA256 {
		return nil, fmt.Errorf("cannot seal %s", tls.CipherSuiteName(state.CipherSuite))
	}
	if secret.client == nil {
		return nil, errors.New("the handshake told no secret")
	}
	s := &Sealer{}
	return s, s.use(secret.client)
}

// use derives a key from a secret, as RFC 8446, section 7.3 says.
func (s *Sealer) use(secret []byte) error {
	key, err := expand(secret, "key", 16)
	if err != nil {
		return err
	}
	if s.iv, err = expand(secret, "iv", 12); err != nil {
		return err
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return err
	}
	s.aead, err = cipher.NewGCM(block)
	s.secret, s.count = secret, 0
	return err
}

// expand is HKDF-Expand-Label without a context: RFC 8446, section 7.1.
func expand(secret []byte, label string, size int) ([]byte, error) {
	label = "tls13 " + label
	info := binary.BigEndian.AppendUint16(nil, uint16(size))
	info = append(append(info, byte(len(label))), label...)
	return hkdf.Expand(sha256.New, secret, string(append(info, 0)), size)
}

// AppendData appends a record of application data to b.
func (s *Sealer) AppendData(b, data []byte) []byte {
	return s.seal(b, recordApplicationData, data)
}

// AppendKeyUpdate appends a KeyUpdate that asks the peer to update its key as
// well, and changes the key of what follows: RFC 8446, section 4.6.3.
func (s *Sealer) AppendKeyUpdate(b []byte) ([]byte, error) {
	b = s.seal(b, recordHandshake, []byte{messageKeyUpdate, 0, 0, 1, updateRequested})
	next, err := expand(s.secret, "traffic upd", sha256.Size)
	if err != nil {
		return nil, err
	}
	return b, s.use(next)
}

func (s *Sealer) seal(b []byte, kind byte, data []byte) []byte {
	header := []byte{recordApplicationData, 3, 3, 0, 0}
	binary.BigEndian.PutUint16(header[3:], uint16(len(data)+1+s.aead.Overhead()))
	nonce := append([]byte(nil), s.iv...)
	binary.BigEndian.PutUint64(nonce[4:], binary.BigEndian.Uint64(nonce[4:])^s.count)
	s.count++
	plain := append(append([]byte(nil), data...), kind)
	return s.aead.Seal(append(b, header...), nonce, plain, header)
}
