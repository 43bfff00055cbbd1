"""Write the model as models/model.onnx, which anybody can run, and models/README.md about it.

The ONNX file takes uint8 images and gives probabilities. It is run here by ONNX Runtime, and held
against PyTorch on validation images. A network that ONNX has no words for ends this stage alone.
"""

from image_pipeline.common.stage import run_stage


def main() -> None:
    # Here, not at the top: run_stage takes care of Ctrl-C and of errors first.
    import hashlib

    from image_pipeline import numerics
    from image_pipeline.common import paths
    from image_pipeline.common.params import read_params

    params = read_params()
    numerics.pin("portable")

    # After the pin: these import torch and numpy.
    from image_pipeline.common.files import atomic_group, write_bytes
    from image_pipeline.exporting.check import compare
    from image_pipeline.exporting.figures import read_figures
    from image_pipeline.exporting.onnx_file import describe, to_onnx
    from image_pipeline.exporting.page import render
    from image_pipeline.exporting.sources import source_of
    from image_pipeline.modeling.model_file import read_model
    from image_pipeline.tensors.tensor_files import read_split

    model, card = read_model(paths.MODEL)
    validation = read_split(paths.VALIDATION_TENSORS)
    card.check_fits(paths.VALIDATION_TENSORS, validation)
    figures = read_figures(card.data.class_names)
    source = source_of(card.data.dataset)
    sha256 = hashlib.sha256(paths.MODEL.read_bytes()).hexdigest()
    chosen = source.license if params.export.license == "data" else params.export.license

    weights = sum(parameter.numel() for parameter in model.parameters())
    wanted = params.export.onnx
    page = render(card, source, figures, chosen, weights, sha256, onnx=wanted)
    exported, found = b"", "no ONNX file, as export.onnx says"
    if wanted:
        exported = to_onnx(model, card, describe(card, source, chosen, sha256))
        found = f"{len(exported) / 1e6:.2f} MB; {compare(exported, model, card.data, validation)}"
    with atomic_group():
        write_bytes(paths.ONNX, exported)
        write_bytes(paths.MODEL_PAGE, page.encode())
    print(f"export: {paths.MODEL_PAGE}, {paths.ONNX}: {found}")


if __name__ == "__main__":
    run_stage(main, __doc__)
