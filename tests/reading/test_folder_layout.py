"""What folders mean: a table of layouts that data sets have, and of those that are refused."""

import re

import pytest

from image_pipeline.common.errors import DataError
from image_pipeline.reading.folder_layout import Layout, read_layout
from refusals import said_by


def expanded(name: str) -> list[str]:
    """Expand braces as a shell does: `{a,b}/1.jpg` is a/1.jpg and b/1.jpg."""
    if not (found := re.fullmatch(r"(.*?)\{(.*?)\}(.*)", name)):
        return [name]
    begin, middle, end = found.groups()
    return [each for part in middle.split(",") for each in expanded(f"{begin}{part}{end}")]


def read(files: str) -> Layout:
    """Read the layout of files; a name that ends with a slash is an empty folder."""
    folders: dict[str, bool] = {}
    for name in (each for word in files.split() for each in expanded(word)):
        folder = name.rpartition("/")[0]
        folders[folder] = folders.get(folder, False) or name.endswith(".jpg")
    return read_layout(folders, "pets.zip")


ABC = "{ant,bee,cat}/1.jpg"
# Files, and the folders of each class (`*` is its name): for training, and after a bar for test.
# Files that are in no class are not named there.
UNDERSTOOD = {
    "a folder per class": (
        "Cat/1.jpg ant/1.jpg ant/deep/er/2.jpg README.md",
        "Cat: *; ant: * */deep/er",
    ),
    "wrapped, beside a stray image": (
        "preview.jpg PetImages/{Cat,Dog}/1.jpg",
        "Cat Dog: PetImages/*",
    ),
    "train and test": ("x/{train,test}/{ant,bee}/1.jpg", "ant bee: x/train/* | x/test/*"),
    "a word for the set in both": (
        "{seg_train/seg_train,seg_test/seg_test}/{sea,street}/1.jpg",
        "sea street: seg_train/seg_train/* | seg_test/seg_test/*",
    ),
    "in one word, and years": (
        "{TrainImages,testset,val2017}/{a,b}/1.jpg",
        "a b: TrainImages/* val2017/* | testset/*",
    ),
    "the split at the end of a word, and a word for two splits": (
        "{PetsTrainval,PetsTest,pets_train_val}/{a,b}/1.jpg",
        "a b: PetsTrainval/* pets_train_val/* | PetsTest/*",
    ),
    "all have a split's word": (
        "{xray_train,chest-test}/{a,b}/1.jpg",
        "a b: xray_train/* | chest-test/*",
    ),
    "dev is for training, eval the test split": ("{dev,eval}/{a,b}/1.jpg", "a b: dev/* | eval/*"),
    "eval is for validation beside a test split": (
        "{train,eval,test}/{a,b}/1.jpg",
        "a b: eval/* train/* | test/*",
    ),
    "part of the classes in validation": (
        "train/{a,b}/1.jpg valid/b/1.jpg",
        "a: train/*; b: train/* valid/*",
    ),
    "a folder of papers beside the splits": (
        "{Training,Test}/{a,b}/1.jpg papers/fruit.pdf",
        "a b: Training/* | Test/*",
    ),
    "a folder for predictions without images": (
        "{train,test}/{a,b}/1.jpg predictions/submission.csv",
        "a b: train/* | test/*",
    ),
    "the split inside each class": (
        "{0,1}/training/1.jpg 0/test/1.jpg 1/test/writer/1.jpg",
        "0: */training | */test; 1: */training | */test/writer",
    ),
    "the split inside each class, and a folder between": (
        "{a,b}/img/{train,test}/1.jpg",
        "a b: */img/train | */img/test",
    ),
    "one split inside each class": ("{a,b}/train/1.jpg", "a b: */train"),
    "a split's word in names of classes": (
        "{test_tube,flask,steam_train,toy-train}/1.jpg",
        "flask steam_train test_tube toy-train: *",
    ),
    "the same word in all names": ("test_{pos,neg}/1.jpg", "test_neg test_pos: *"),
    "a class called train, in splits": (
        "{train,test}/{bus,train}/1.jpg",
        "bus train: train/* | test/*",
    ),
    "cameras of each class": (
        "{cat,dog}/{cam1,cam2,Camera-3}/1.jpg",
        "cat dog: */Camera-3 */cam1 */cam2",
    ),
    "other folders in each class": (
        "animal/{cat,dog}/1.jpg vehicle/{bus,train}/1.jpg",
        "animal: */cat */dog; vehicle: */bus */train",
    ),
    "some of the same folders in each class": (
        "shoe/{nike,adidas}/1.jpg shirt/{nike,gucci}/1.jpg",
        "shirt: */gucci */nike; shoe: */adidas */nike",
    ),
    "numbers in classes that are numbers": (
        "0/{1,2}/1.jpg 1/5/1.jpg 2/{8,9}/1.jpg",
        "0: */1 */2; 1: */5; 2: */8 */9",
    ),
    "a folder of the same name in each class": ("{cat,dog}/images/1.jpg", "cat dog: */images"),
    "images beside the same folders in each class": (
        "{cat,dog}/{flipped/1.jpg,rotated/1.jpg,1.jpg}",
        "cat dog: * */flipped */rotated",
    ),
}


@pytest.mark.parametrize("name", UNDERSTOOD)
def test_a_layout_is_understood(name: str) -> None:
    files, meaning = UNDERSTOOD[name]
    expected: dict[str, str] = {}
    for names, _, folders in (part.partition(": ") for part in meaning.split("; ")):
        expected |= {each: folders.replace("*", each) for each in names.split()}
    layout = read(files)
    assert layout.class_names == tuple(sorted(expected))
    assert layout.unlabelled == ()
    found: dict[str, str] = {}
    for label, class_name in enumerate(layout.class_names):
        train, test = (
            " ".join(sorted(f for f, meaning in layout.meanings.items() if meaning == (label, t)))
            for t in (False, True)
        )
        found[class_name] = f"{train} | {test}" if layout.has_test else train
        assert test == "" or layout.has_test
    assert found == expected


UNLABELLED = {
    "seg_pred/seg_pred": f"{{seg_train/seg_train,seg_test/seg_test}}/{ABC}",
    "test": f"train/{ABC}",
    "test1/images": f"{{train/images,val/images}}/{ABC}",
    "test-multiple_fruits": f"{{Training,Test}}/{ABC}",
    "unlabeled": f"{{train,test}}/{ABC}",
    "predictions/ant": f"{{train,test}}/{ABC}",
}


@pytest.mark.parametrize("folder", UNLABELLED)
def test_a_split_without_class_folders_is_told(folder: str) -> None:
    labelled = UNLABELLED[folder]
    layout = read(f"{labelled} {folder}/1.jpg")
    assert layout.unlabelled == (folder.split("/")[0],)
    assert layout.class_names == ("ant", "bee", "cat")
    assert layout.meanings.pop(folder) == (-1, False)
    alone = read(f"{labelled} notes.txt")
    assert layout.has_test == alone.has_test
    assert layout.meanings.items() == {k: v for k, v in alone.meanings.items() if k}.items()


NO_SPLIT = "is in no split, though classes have train/ and test/ folders in them"
ALIKE = "have the same folders in them"
TOO_FEW = "expected at least two folders, one per class, such as cat/ and dog/; found:"
REFUSED = {
    "no folders": ("1.jpg", f"{TOO_FEW} none"),
    "one class": ("cat/{1,2}.jpg", f"{TOO_FEW} only 'cat'"),
    "wrapped too often": (f"{'x/' * 40}{{a,b}}/1.jpg", f"{TOO_FEW} only 'x'"),
    "a table has the labels": (
        "train.csv {train,test}_images/1.jpg",
        "no class folders are in test_images/, train_images/; expected are folders like cat/ and "
        "dog/, or train/cat/, train/dog/, test/cat/, test/dog/",
    ),
    "the split and the class in one name": (
        "{cat,dog}_{train,test}/1.jpg dog_val/1.jpg",
        "no class folders are in cat_test/, cat_train/, dog_test/, dog_train/ and 1 more; expected",
    ),
    "classes beside train": (
        "{bus,car,train}/1.jpg",
        "the folder bus/ is beside train/, and only train/, test/ and validation/ may be: move or "
        "remove it; or rename train/ if it is a class",
    ),
    "classes beside test": (
        "{cat,dog,test_images}/1.jpg",
        "there is test_images/, but no train/; put the folders of the classes into train/; or "
        "remove test_images/ (`predict` can score it); or rename it if it is a class",
    ),
    "an empty test split": (
        f"train/{ABC} test/",
        "the folder test/ has no images; add some, or remove it",
    ),
    "an empty folder in the test split": (
        f"train/{ABC} test/images/",
        "the folder test/ has no images; add some, or remove it",
    ),
    "labels for the test split alone": (
        "train/1.jpg test/{a,b}/1.jpg",
        "no class folders are in train/; expected are folders like",
    ),
    "a test split alone, in each class": (
        "{a,b}/test/1.jpg",
        "the class 'a' is in test/ but not in train/; add images of it to train/",
    ),
    "a class that is only in training": (
        f"{{seg_train,seg_test}}/{ABC} seg_train/fox/1.jpg",
        "the class 'fox' is in seg_train/ but not in seg_test/; add images of it to seg_test/, or "
        "remove it from seg_train/",
    ),
    "a class that is only in test": (
        f"{{train,test}}/{ABC} test/fox/1.jpg",
        "the class 'fox' is in test/ but not in train/; add images of it to train/",
    ),
    "a class that is only in validation": (
        f"{{train,val}}/{ABC} val/fox/1.jpg",
        "the class 'fox' is in val/ but not in train/; add images of it to train/",
    ),
    "images and masks": (
        "{images,masks}/1.jpg",
        "the folder images/ names no class; expected are folders like",
    ),
    "versions of the images": (
        f"x/{{color,grayscale,segmented}}/{ABC}",
        f"the folders color/, grayscale/, segmented/ {ALIKE}, ant/, bee/, "
        "cat/; which are the classes? If the inner ones, put all images of each into one folder, "
        "or use one of the outer folders alone (x/color/); if the outer ones, move the images up",
    ),
    "versions that lack a class, or have another file": (
        "{art,photo,sketch}/{a,b,c,d,e}/1.jpg art/f/1.jpg photo/about.jpg",
        f"the folders art/, photo/, sketch/ {ALIKE}",
    ),
    "versions of splits": (
        f"{{original,augmented}}/{{train,test}}/{ABC}",
        f"the folders augmented/, original/ {ALIKE}, ant/, bee/, cat/; which",
    ),
    "versions of splits, with one class for validation": (
        f"{{new,old}}/train/{ABC} {{new,old}}/val/ant/1.jpg",
        f"the folders new/, old/ {ALIKE}, ant/, bee/, cat/; which",
    ),
    "views, and another folder": (
        "{cat,dog}/{left,right,indoor}/1.jpg",
        f"the folders cat/, dog/ {ALIKE}, indoor/, left/, right/; which",
    ),
    "patients": (
        "patient{0,1,2,3,4,5,6,7,8}/{0,1}/1.jpg p/0/1.jpg",
        f"the folders p/, patient0/, patient1/, patient2/ and 6 more {ALIKE}, 0/, 1/; which",
    ),
    "the classes once more in a folder beside them": (
        "{infected,healthy,cells/infected,cells/healthy}/1.jpg",
        "the folder cells/ has folders in it that are named like those beside it, healthy/, "
        "infected/, so it is no class; move or remove it",
    ),
    "images beside the splits in a class": (
        "{0,1}/{train,test}/1.jpg 0/1.jpg",
        f"what is in the folder 0/ {NO_SPLIT}",
    ),
    "another folder beside the splits in a class": (
        "{0,1}/{train,test}/1.jpg 1/more/1.jpg",
        f"the folder 1/more/ {NO_SPLIT}",
    ),
    "a test split in each class, beside training images": (
        "{cat,dog}/{1.jpg,test/1.jpg}",
        f"what is in the folder cat/ {NO_SPLIT}",
    ),
    "a class without one of the splits in it": (
        "0/{train,test}/1.jpg 1/train/1.jpg",
        "the class '1' is in train/ but not in test/; add images of it to test/",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_layout_is_refused(name: str) -> None:
    files, problem = REFUSED[name]
    message = said_by(DataError, read, files)
    assert message.startswith(f"pets.zip: {problem}")
