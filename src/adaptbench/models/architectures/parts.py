"""x"""




def linear(model: nn.Module, path: str, role: str) -> LinearSite:
    linear: Any = model.get_submodule(path)
    return LinearSite(path, role, linear.in_features, linear.out_features)


def fused(model: nn.Module, path: str, parts: dict[str, Columns]) -> Iterator[LinearSite]:
    """The roles that share one map."""
    linear: Any = model.get_submodule(path)
    for role, columns in parts.items():
        yield LinearSite(path, role, linear.in_features, columns.width, columns)


def norm(model: nn.Module, path: str, offset: float = 0.0) -> NormSite:
    norm: Any = model.get_submodule(path)
    return NormSite(path, len(norm.weight), getattr(norm, "bias", None) is not None, offset)


def norms(model: nn.Module, owner: str, *names: str, offset: float = 0.0) -> Iterator[NormSite]:
    """Those norms with a weight that a module has: families of architectures differ in them."""
    module = model.get_submodule(owner)
    for name in names:
        if getattr(getattr(module, name, None), "weight", None) is not None:
            yield norm(model, f"{owner}.{name}", offset)


def embedding(
    model: nn.Module, path: str, kind: str = "decoder", prefix: str = "", scale: float = 1.0
) -> EmbeddingSite:
    embedding: Any = model.get_submodule(path)
    return EmbeddingSite(path, kind, embedding.embedding_dim, f"{prefix}input_ids", f"{prefix}inputs_embeds", scale)


def by_head(groups: int, width: int, queries: int = 1) -> dict[str, Columns]:
    """In each group: the queries of some heads, the keys of one and its values."""
    bounds = [0, queries * width, (queries + 1) * width, (queries + 2) * width]
    return {letter: Columns(bounds[i], bounds[i + 1], groups) for i, letter in enumerate("qkv")}
