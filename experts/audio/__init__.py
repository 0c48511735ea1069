"""Sound: small networks that are trained, and torchaudio's pretrained ones.

`experts.audio.pretrained.AudioExpert` (transformers) and `experts.audio.picture.PictureExpert` (timm) are named by
their modules, so that who needs neither does not wait for those libraries.
"""

from experts.audio.background import Background
from experts.audio.conformer import ConformerExpert
from experts.audio.front_end import AudioTransform, LogMel
from experts.audio.recurrent import RecurrentExpert
from experts.audio.spec_augment import SpecAugment, VoiceWarp
from experts.audio.spectrogram import ConvStage, SpectrogramExpert
from experts.audio.wav2vec2 import Wav2Vec2Expert

__all__ = [
    "AudioTransform",
    "Background",
    "ConformerExpert",
    "ConvStage",
    "LogMel",
    "RecurrentExpert",
    "SpecAugment",
    "SpectrogramExpert",
    "VoiceWarp",
    "Wav2Vec2Expert",
]
