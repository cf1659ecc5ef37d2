"""Three kinds of tokenizers at the size of a test: byte-level BPE, SentencePiece's BPE, WordPiece."""

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

TEXT = [
    "question answer premise hypothesis: the cat sat on the mat. true\n\n",
    "a dog ran to the large red house\n\nno\n\nyes it is\n\nmaybe, we can say\n\n",
    "was blue or été café? is a small good answer. what did it do? ran\n\nsat on the mat\n\n",
] * 4
SPECIAL = ["<pad>", "</s>", "<s>", "<unk>"]
NAMES = {"pad_token": "<pad>", "eos_token": "</s>", "bos_token": "<s>", "unk_token": "<unk>"}


def byte_level() -> PreTrainedTokenizerFast:
    """As GPT-2's, but line ends merge with what is before them, as in newer ones (`no` + two line ends)."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    pieces = [piece for text in TEXT for piece in text.replace(" ", "\0 ").split("\0")]
    tokenizer.train_from_iterator(
        pieces, trainers.BpeTrainer(vocab_size=420, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def sentencepiece() -> PreTrainedTokenizerFast:
    """As Llama 2's: `▁` before every text and for every blank, bytes where a character is unknown, `<s>` in front."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokens = SPECIAL + [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer.train_from_iterator(
        [word for text in TEXT for word in text.split()], trainers.BpeTrainer(vocab_size=420, special_tokens=tokens)
    )
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 2)])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


def wordpiece() -> PreTrainedTokenizerFast:
    """As BERT's, of whole words, word ends and letters; white space is lost."""
    words = sorted({word.strip(".,?:") for text in TEXT for word in text.split()})
    letters = sorted({letter for text in TEXT for letter in text if not letter.isspace()} | set("0123456789:"))
    entries = SPECIAL + words[::2] + [f"##{word[2:]}" for word in words if len(word) > 3] + letters
    entries += [f"##{letter}" for letter in letters]
    vocabulary = {entry: index for index, entry in enumerate(dict.fromkeys(entries))}
    tokenizer = Tokenizer(models.WordPiece(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **NAMES)


KINDS = {"byte_level": byte_level, "sentencepiece": sentencepiece, "wordpiece": wordpiece}
