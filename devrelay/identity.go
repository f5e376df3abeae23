package devrelay

import (
	"encoding/json"
	"regexp"

	"github.com/coder/websocket"
)

// identityWithin is how many messages of a connection are searched for its room
// and peer: the SDK sends them in its first few.
const identityWithin = 10

// Identity says whose traffic it is, as far as known.
type Identity struct {
	Session string `json:"session,omitempty"`
	Room    string `json:"room,omitempty"`
	Peer    string `json:"peer,omitempty"`
}

// learn fills in what an early message tells.
func (id *Identity) learn(m Message) {
	if m.Seq > identityWithin || m.Type != websocket.MessageText || id.Room != "" {
		return
	}
	text, _ := decodeText(m.Data)
	id.learnText(text)
}

// learnText looks for the SDK's field names without parsing the whole, which may
// have been cut short.
func (id *Identity) learnText(text string) {
	for _, found := range identityField.FindAllStringSubmatch(text, -1) {
		var value string
		if json.Unmarshal([]byte(found[2]), &value) != nil {
			continue
		}
		value = clipText(value, 128)
		switch found[1] {
		case "sessionId":
			id.Session = value
		case "rtcRoomId":
			id.Room = value
		case "rtcPeerId":
			id.Peer = value
		}
	}
}

var identityField = regexp.MustCompile(`"(sessionId|rtcRoomId|rtcPeerId)"\s*:\s*("(?:[^"\\]|\\.)*")`)
