// What somebody says into the microphone, as a WAV of one channel with 16,000 samples a second.
const RATE = 16_000;

const wav = (samples: Float32Array): Blob => {
  const file = new DataView(new ArrayBuffer(44 + samples.length * 2));
  const text = (at: number, word: string) => {
    for (const [index, char] of [...word].entries()) file.setUint8(at + index, char.charCodeAt(0));
  };
  text(0, "RIFF");
  file.setUint32(4, 36 + samples.length * 2, true);
  text(8, "WAVEfmt ");
  file.setUint32(16, 16, true);
  file.setUint16(20, 1, true);
  file.setUint16(22, 1, true);
  file.setUint32(24, RATE, true);
  file.setUint32(28, RATE * 2, true);
  file.setUint16(32, 2, true);
  file.setUint16(34, 16, true);
  text(36, "data");
  file.setUint32(40, samples.length * 2, true);
  for (const [at, sample] of samples.entries()) {
    file.setInt16(44 + at * 2, Math.max(-1, Math.min(1, sample)) * 32767, true);
  }
  return new Blob([file], { type: "audio/wav" });
};

const plain = async (recording: Blob): Promise<Blob> => {
  const context = new AudioContext();
  try {
    const sound = await context.decodeAudioData(await recording.arrayBuffer());
    const offline = new OfflineAudioContext(1, Math.ceil(sound.duration * RATE), RATE);
    const source = offline.createBufferSource();
    source.buffer = sound;
    source.connect(offline.destination);
    source.start();
    return wav((await offline.startRendering()).getChannelData(0));
  } finally {
    await context.close();
  }
};

export interface Recording {
  stop: () => Promise<Blob>;
}

export const record = async (): Promise<Recording> => {
  const stream = await navigator.mediaDevices.getUserMedia({ audio: true });
  const pieces: Blob[] = [];
  const recorder = new MediaRecorder(stream);
  recorder.addEventListener("dataavailable", (event) => pieces.push(event.data));
  recorder.start();
  return {
    stop: async () => {
      const hasEnded = new Promise((done) => recorder.addEventListener("stop", done, { once: true }));
      recorder.stop();
      await hasEnded;
      for (const track of stream.getTracks()) track.stop();
      return plain(new Blob(pieces));
    },
  };
};

export const play = async (sound: Blob): Promise<void> => {
  const audio = new Audio(URL.createObjectURL(sound));
  audio.addEventListener("ended", () => URL.revokeObjectURL(audio.src));
  await audio.play();
};
