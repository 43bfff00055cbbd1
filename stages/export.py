"""Export the model as models/model.onnx, with the model card models/README.md.

The ONNX file maps uint8 images to probabilities. Its output in ONNX Runtime is compared with
PyTorch's on validation images. A network that cannot be exported makes only this stage fail.
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
    from image_pipeline.exporting.onnx_file import build_metadata, to_onnx
    from image_pipeline.exporting.page import render
    from image_pipeline.exporting.provenance import get_provenance
    from image_pipeline.exporting.run_metrics import read_run_metrics
    from image_pipeline.modeling.model_file import read_model
    from image_pipeline.tensors.tensor_files import read_split

    model, card = read_model(paths.MODEL)
    validation = read_split(paths.VALIDATION_TENSORS)
    card.check_fits(paths.VALIDATION_TENSORS, validation)
    metrics = read_run_metrics(card.data.class_names)
    source = get_provenance(card.data.dataset)
    sha256 = hashlib.sha256(paths.MODEL.read_bytes()).hexdigest()
    license_ = source.license if params.export.license == "data" else params.export.license

    weights = sum(parameter.numel() for parameter in model.parameters())
    page = render(card, source, metrics, license_, weights, sha256, onnx=params.export.onnx)
    exported, summary = b"", "no ONNX file, as export.onnx is false"
    if params.export.onnx:
        exported = to_onnx(model, card, build_metadata(card, source, license_, sha256))
        agreement = compare(exported, model, card, validation)
        summary = f"{len(exported) / 1e6:.2f} MB; {agreement}"
    with atomic_group():
        write_bytes(paths.ONNX, exported)
        write_bytes(paths.MODEL_PAGE, page.encode())
    print(f"export: {paths.MODEL_PAGE}, {paths.ONNX}: {summary}")


if __name__ == "__main__":
    run_stage(main, __doc__)
